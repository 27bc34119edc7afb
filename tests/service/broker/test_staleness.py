"""Staleness: of online pairs, the older side's; counted from what live workers serve."""

from datetime import UTC, datetime

import pytest

from service.broker import Broker
from service.schemas import (
    LeaseRequest,
    Pair,
    RunSettings,
    SampleRequest,
    SampleResult,
    assistant_turn,
)
from tests.service.samples import append, claim_one, serve, weight_version

RANKED = SampleRequest(prompt="?", n=2, annotator="self", run="r")


async def online(broker: Broker, chosen: int | None, rejected: int | None) -> str:
    """A pair whose sides are of these versions."""
    await broker.jobs.enqueue(RANKED)
    claim = await claim_one(broker)
    pair = Pair(
        prompt=RANKED.conversation,
        images=[],
        chosen=[assistant_turn("Yes.")],
        rejected=[assistant_turn("No.")],
        pair_id=claim.job_id,
        run="r",
        method="online",
        chosen_version=chosen,
        rejected_version=rejected,
        rejected_spans=[],
        similarity=None,
        iterations=None,
        seed=1,
        created_at=datetime.now(UTC),
    )
    assert await broker.claims.finish(claim, SampleResult(responses=[], seed=1, pairs=[pair]))
    return claim.job_id


async def test_the_older_side_decides_at_the_time_of_the_lease(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(max_staleness=2))
    await online(broker, 1, 4)
    await online(broker, 4, 1)
    fresh = await online(broker, 2, 4)
    late = await online(broker, 4, 4)
    await serve(broker, 4)  # after they were made: what counts is now
    batch = await broker.batches.lease("r", LeaseRequest(size=4, min_size=1))
    assert batch
    assert [pair.pair_id for pair in batch.pairs] == [fresh, late]
    assert [(d.staleness, d.stale) for d in batch.deliveries] == [(2, False), (0, False)]
    run = await broker.runs.get("r")
    assert run
    assert run.groups[0].stale == 2
    await broker.batches.ack("r", batch.lease)


async def test_stale_ones_are_delivered_and_marked_if_the_run_says_so(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(max_staleness=2, stale="deliver"))
    await online(broker, 1, 4)
    await online(broker, 2, 4)
    await online(broker, 4, None)
    await serve(broker, 4)
    batch = await broker.batches.lease("r", LeaseRequest(size=3))
    assert batch
    expected = [(3, True), (2, False), (0, False)]
    assert [(d.staleness, d.stale) for d in batch.deliveries] == expected
    await serve(broker, 5)
    await broker.batches.nack("r", batch.lease)  # it is measured anew with every lease
    again = await broker.batches.lease("r", LeaseRequest(size=3))
    assert again
    assert [(d.staleness, d.stale) for d in again.deliveries] == [(4, True), (3, True), (1, False)]


async def staleness(broker: Broker) -> int | None:
    """Of a new pair of version 0."""
    await append(broker, 1, version=0)
    batch = await broker.batches.lease("r", LeaseRequest(size=1))
    assert batch
    await broker.batches.ack("r", batch.lease)
    return batch.deliveries[0].staleness


async def test_what_nobody_serves_makes_nothing_stale(broker: Broker) -> None:
    """Announced, and refused by all or not loaded yet."""
    await broker.runs.put("r", RunSettings(max_staleness=0, window=4, keep=2))
    await broker.weights.announce(weight_version(1))
    assert await staleness(broker) == 0, "there is no worker at all"
    await serve(broker, 0)
    assert await staleness(broker) == 0
    await broker.weights.refuse("w1", 1, "cannot be read")
    for _ in range(12):
        assert await staleness(broker) == 0
    run = await broker.runs.get("r")
    assert run
    assert (run.groups[0].stale, run.pairs - run.trimmed) == (0, 2)


async def test_it_counts_from_the_newest_that_a_live_worker_serves(broker: Broker) -> None:
    await serve(broker, 3, "behind")
    await serve(broker, 5, "ahead")
    assert await staleness(broker) == 5
    await serve(broker, 5, "ahead", engine_ready=False)
    assert await staleness(broker) == 3, "nothing comes from an engine that is down"
    await serve(broker, 6, "ahead")
    assert await staleness(broker) == 6
    await broker.workers.unregister("ahead")
    assert await staleness(broker) == 3
    await serve(broker, 2, "behind")
    assert await staleness(broker) == 2, "after a version was withdrawn, say"
    await broker.workers.unregister("behind")
    assert await staleness(broker) == 2, "with no worker alive, the last that was served"


async def test_a_worker_that_died_no_longer_counts(broker: Broker) -> None:
    await serve(broker, 1, "lives")
    await serve(broker, 9, "dies")
    assert await staleness(broker) == 9
    await broker.connection.redis.delete(broker.connection.key("worker", "dies"))  # silence does it
    assert await staleness(broker) == 1


async def test_a_pair_ahead_of_all_workers_is_not_stale(broker: Broker) -> None:
    """The worker that made it has died."""
    await serve(broker, 1)
    await append(broker, 1, version=4)
    batch = await broker.batches.lease("r", LeaseRequest(size=1))
    assert batch
    assert batch.deliveries[0].staleness == 0


async def test_what_all_groups_set_aside_is_trimmed(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(max_staleness=0, keep=2))
    await serve(broker, 1)
    made = await append(broker, 6, version=0)
    assert await broker.batches.lease("r", LeaseRequest(size=1)) is None
    assert await kept(broker) == made[4:]
    fresh = await append(broker, 1, version=1)
    stale = await append(broker, 6, version=0)
    assert await broker.batches.lease("r", LeaseRequest(size=1))
    assert await broker.batches.lease("r", LeaseRequest(size=1)) is None
    assert await kept(broker) == made[4:] + fresh + stale, "what is leased holds what follows it"


async def test_the_log_shrinks_with_what_held_it(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(keep=4))
    made = await append(broker, 6)
    await broker.batches.lease("r", LeaseRequest(size=1, group="viewer"))
    batch = await broker.batches.lease("r", LeaseRequest(size=6))
    assert batch
    await broker.batches.ack("r", batch.lease)
    assert await kept(broker) == made, "the viewer's are out"
    await broker.batches.delete_group("r", "viewer")
    assert await kept(broker) == made[2:]
    await broker.runs.put("r", RunSettings(keep=1))
    assert await kept(broker) == made[5:]


async def kept(broker: Broker) -> list[str]:
    return [pair.pair_id for pair in (await broker.runs.pairs("r", None, 100)).pairs]


@pytest.mark.parametrize("outcome", ["tie", "unreadable", "same", "empty"])
async def test_what_made_no_pair_is_counted(broker: Broker, outcome: str) -> None:
    for _ in range(2):
        await broker.jobs.enqueue(RANKED)
        result = SampleResult(responses=[], seed=1, outcome=outcome)
        claim = await claim_one(broker)
        assert await broker.claims.finish(claim, result)
        assert await broker.claims.finish(claim, result)  # the call again, its answer was lost
    run = await broker.runs.get("r")
    assert run
    assert (run.pairs, run.outcomes, run.open_jobs) == (0, {outcome: 2}, 0)
    assert (await broker.stats()).runs["r"].outcomes == {outcome: 2}


async def test_a_ranking_needs_responses_to_rank() -> None:
    for n in (1, 9):
        with pytest.raises(ValueError, match="ranks 2 to 8 responses"):
            SampleRequest(prompt="?", n=n, annotator="self")
    with pytest.raises(ValueError, match="no effect without"):
        SampleRequest(prompt="?", n=2, orders="random")
    request = SampleRequest(prompt="?", n=2, annotator="self", orders="random")
    assert SampleRequest.model_validate_json(request.model_dump_json()) == request
