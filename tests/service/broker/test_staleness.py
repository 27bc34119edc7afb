"""Online pairs, both of whose sides the policy wrote: staleness is that of the older side."""

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
from tests.service.samples import claim_one, weight_version

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


async def announce(broker: Broker, version: int) -> None:
    await broker.weights.announce(weight_version(version))


async def test_the_older_side_decides_at_the_time_of_the_lease(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(max_staleness=2))
    await online(broker, 1, 4)
    await online(broker, 4, 1)
    fresh = await online(broker, 2, 4)
    late = await online(broker, 4, 4)
    await announce(broker, 4)  # after they were made: what counts is now
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
    await announce(broker, 4)
    batch = await broker.batches.lease("r", LeaseRequest(size=3))
    assert batch
    expected = [(3, True), (2, False), (0, False)]
    assert [(d.staleness, d.stale) for d in batch.deliveries] == expected
    await announce(broker, 5)
    await broker.batches.nack("r", batch.lease)  # it is measured anew with every lease
    again = await broker.batches.lease("r", LeaseRequest(size=3))
    assert again
    assert [(d.staleness, d.stale) for d in again.deliveries] == [(4, True), (3, True), (1, False)]


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
