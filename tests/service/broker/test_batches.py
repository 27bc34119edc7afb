"""Batches: leased, acknowledged, handed back, delivered again."""

import asyncio
from typing import Any

import httpx
import pytest

from service.broker import Broker, LeaseLost, LogChanged, LogTrimmed, WindowFull
from service.schemas import Batch, RunSettings
from tests.service.broker.leasing import group, ids, lease, must_lease
from tests.service.http import sse_events
from tests.service.samples import append, enqueue_bdhs, serve, twice
from tests.waiting import until


async def test_batches_come_in_order_and_are_acknowledged(broker: Broker) -> None:
    pairs = await append(broker, 5)
    first, second = await must_lease(broker), await must_lease(broker)
    assert ids(first) + ids(second) == pairs[:4]
    assert await lease(broker) is None, "one pair is no batch of two"
    assert ids(await must_lease(broker, min_size=1)) == pairs[4:]
    await broker.batches.ack("r", first.lease)
    await broker.batches.ack("r", first.lease)  # a repeated call after a lost reply
    [group] = (await broker.runs.get("r")).groups  # pyright: ignore[reportOptionalMemberAccess]
    assert (group.waiting, group.leased, group.returned, group.acknowledged) == (0, 3, 0, 2)


async def test_a_lost_reply_loses_no_pair(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after the server has leased; redis-py sends the call again."""
    pairs = await append(broker, 5)
    monkeypatch.setattr(broker.connection, "run", twice(broker.connection.run))
    batches = [await must_lease(broker, min_size=1) for _ in range(3)]
    monkeypatch.undo()
    assert [ids(batch) for batch in batches] == [pairs[:2], pairs[2:4], pairs[4:]]
    assert {delivery.count for batch in batches for delivery in batch.deliveries} == {1}
    for batch in batches:
        await broker.batches.ack("r", batch.lease)
    [group] = (await broker.runs.get("r")).groups  # pyright: ignore[reportOptionalMemberAccess]
    assert (group.waiting, group.leased, group.returned, group.acknowledged) == (0, 0, 0, 5)


async def test_pairs_whose_lease_ran_out_count_as_returned(broker: Broker) -> None:
    """Though nobody of the group has asked since."""
    await append(broker, 3)
    await must_lease(broker, lease_s=0.05)
    standing = await must_lease(broker, min_size=1)

    async def ran_out() -> bool:
        return (await group(broker)).leased == 1

    await until(ran_out)
    assert (await group(broker)).returned == 2
    await broker.batches.ack("r", standing.lease)
    seen = await group(broker)
    assert (seen.waiting, seen.leased, seen.returned, seen.acknowledged) == (0, 0, 2, 1)


async def test_no_run_no_batch(broker: Broker) -> None:
    with pytest.raises(KeyError):
        await lease(broker)


async def test_subscribers_of_a_group_share_no_pair(broker: Broker) -> None:
    pairs = await append(broker, 40)
    batches = await asyncio.gather(*(must_lease(broker) for _ in range(20)))
    assert sorted(pair for batch in batches for pair in ids(batch)) == sorted(pairs)


async def test_groups_each_see_all_pairs(broker: Broker) -> None:
    pairs = await append(broker, 2)
    for name in ("trainer", "viewer", "my.other-group_1"):
        batch = await must_lease(broker, group=name)
        assert ids(batch) == pairs
        await broker.batches.ack("r", batch.lease)


async def test_a_batch_is_waited_for(broker: Broker) -> None:
    await append(broker, 1)
    waiting = asyncio.create_task(must_lease(broker, wait_s=60))
    await asyncio.sleep(0)
    [late] = await append(broker, 1)
    assert ids(await asyncio.wait_for(waiting, 10))[1] == late
    assert await lease(broker, wait_s=0.01) is None


async def test_a_look_before_there_can_be_enough_reads_nothing(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(window=1000))
    await append(broker, 40)
    returned = await must_lease(broker, size=20)
    await broker.batches.nack("r", returned.lease)
    for _ in range(3):
        assert await _commands_of_a_look(broker, 41) < 25
    waiting = asyncio.create_task(must_lease(broker, size=41, wait_s=60))
    await append(broker, 1)
    assert len((await waiting).pairs) == 41


async def _commands_of_a_look(broker: Broker, size: int) -> int:
    """Commands of the server, for a batch that is not there."""
    redis: Any = broker.connection.redis
    await redis.config_resetstat()
    assert await lease(broker, size=size) is None
    return sum(one["calls"] for one in (await redis.info("commandstats")).values())


async def test_a_look_that_finds_nothing_new_is_cheap(broker: Broker) -> None:
    """However much is there already, new or handed back, and however much was set aside."""
    await broker.runs.put("r", RunSettings(window=1000, max_staleness=0))
    await append(broker, 30, version=0)
    await serve(broker, 1)
    await append(broker, 20, version=1)
    returned = await must_lease(broker, size=20)
    await broker.batches.nack("r", returned.lease)
    pairs = await append(broker, 39, version=1)
    assert await _commands_of_a_look(broker, 60) > 100
    for _ in range(3):
        assert await _commands_of_a_look(broker, 60) < 25
    waiting = asyncio.create_task(must_lease(broker, size=60, wait_s=60))
    [late] = await append(broker, 1, version=1)
    assert ids(await waiting) == [*ids(returned), *pairs, late]
    await append(broker, 59, version=1)
    assert await lease(broker, size=60) is None
    await serve(broker, 2)
    await append(broker, 1, version=2)
    assert await lease(broker, size=60) is None, "a newer version makes what was seen stale"
    assert (await group(broker)).stale == 89


async def test_what_is_handed_back_comes_first(broker: Broker) -> None:
    pairs = await append(broker, 4)
    first = await must_lease(broker)
    await broker.batches.nack("r", first.lease)
    again = await must_lease(broker)
    assert ids(again) == pairs[:2]
    assert [delivery.count for delivery in again.deliveries] == [2, 2]
    assert ids(await must_lease(broker)) == pairs[2:]
    await broker.batches.nack("r", first.lease)  # a repeated call after a lost reply
    for call in (broker.batches.ack, broker.batches.renew):
        with pytest.raises(LeaseLost, match="handed back"):
            await call("r", first.lease)


async def test_a_lease_that_runs_out_is_delivered_again(broker: Broker) -> None:
    pairs = await append(broker, 2)
    lost = await must_lease(broker, lease_s=0.01)
    again = await asyncio.wait_for(must_lease(broker, wait_s=60), 10)
    assert ids(again) == pairs
    with pytest.raises(LeaseLost):
        await broker.batches.ack("r", lost.lease)
    await broker.batches.ack("r", again.lease)


async def test_renewal_keeps_a_lease(broker: Broker) -> None:
    await append(broker, 2)
    batch = await must_lease(broker, lease_s=0.02)
    end = await broker.batches.renew("r", batch.lease, 60)
    assert end > batch.expires_at.timestamp() * 1000

    async def time_has_passed() -> bool:
        seconds, _ = await broker.connection.command("TIME")
        return int(seconds) > batch.expires_at.timestamp() + 0.05

    await until(time_has_passed)
    assert await lease(broker) is None
    await broker.batches.ack("r", batch.lease)


async def test_an_acknowledgement_in_time_counts_though_the_lease_ran_out(broker: Broker) -> None:
    await append(broker, 2)
    batch = await must_lease(broker, lease_s=0.001)
    await asyncio.sleep(0.002)  # the lease
    await broker.batches.ack("r", batch.lease)
    assert await lease(broker) is None


async def test_only_the_trainer_gates_the_window(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(window=2))
    await append(broker, 2)
    await must_lease(broker, group="viewer")
    with pytest.raises(WindowFull):
        await enqueue_bdhs(broker, run="r")
    batch = await must_lease(broker)
    await append(broker, 2)  # leased is taken
    await broker.batches.nack("r", batch.lease)
    with pytest.raises(WindowFull):
        await enqueue_bdhs(broker, run="r")


async def test_a_window_smaller_than_a_checkpoint_makes_progress(broker: Broker) -> None:
    """A trainer that acknowledges every 100 batches of 2, and a window of 8."""
    await broker.runs.put("r", RunSettings(window=8))
    held: list[str] = []
    for _ in range(100):
        await append(broker, 2)
        held.append((await must_lease(broker)).lease)
    for one in held:
        await broker.batches.ack("r", one)


async def test_a_batch_larger_than_the_window_is_the_window(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(window=3))
    pairs = await append(broker, 3)
    assert ids(await must_lease(broker, size=100)) == pairs


async def test_stale_pairs_are_set_aside_and_counted(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(max_staleness=1, window=6))
    old = await append(broker, 2, version=1)
    new = await append(broker, 1, version=2)
    more = await append(broker, 2, version=1)
    unmade = await append(broker, 1, version=None)
    await serve(broker, 3)
    assert await lease(broker, size=3) is None, "two are fresh enough"
    run = await broker.runs.get("r")
    assert run
    assert (run.groups[0].stale, run.groups[0].waiting) == (4, 2)
    await append(broker, 1, version=3)  # the window is free of what was set aside
    batch = await must_lease(broker, size=2)
    assert ids(batch) == new + unmade
    assert [delivery.staleness for delivery in batch.deliveries] == [1, None]
    everything = (await broker.runs.pairs("r", None, 100)).pairs
    assert [pair.pair_id for pair in everything][:5] == old + new + more, "never silently lost"


async def test_pairs_that_went_stale_under_a_lost_lease_are_set_aside(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(max_staleness=0))
    await append(broker, 2, version=0)
    batch = await must_lease(broker)
    await broker.batches.nack("r", batch.lease)
    await serve(broker, 1)
    assert await lease(broker) is None
    run = await broker.runs.get("r")
    assert run
    assert (run.groups[0].stale, run.groups[0].returned) == (2, 0)


async def test_stale_pairs_can_be_delivered_and_marked(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(max_staleness=0, stale="deliver"))
    await append(broker, 1, version=0)
    await serve(broker, 2)
    await append(broker, 1, version=2)
    batch = await must_lease(broker)
    assert [(d.staleness, d.stale) for d in batch.deliveries] == [(2, True), (0, False)]


async def test_the_log_is_trimmed_below_what_every_group_acknowledged(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(keep=1))
    pairs = await append(broker, 6)
    await must_lease(broker, group="viewer")
    first, second = await must_lease(broker), await must_lease(broker)
    await broker.batches.ack("r", second.lease)
    await broker.batches.ack("r", first.lease)
    assert await _kept(broker) == pairs, "the viewer has acknowledged nothing"
    for _ in range(3):
        batch = await lease(broker, group="viewer")
        if batch:
            await broker.batches.ack("r", batch.lease)
    assert await _kept(broker) == pairs, "the viewer's first batch is still out"


async def test_trimming_keeps_what_is_not_acknowledged(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(keep=1))
    pairs = await append(broker, 6)
    early = (await broker.runs.pairs("r", None, 1)).cursor
    first, second = await must_lease(broker), await must_lease(broker)
    await broker.batches.ack("r", second.lease)
    assert await _kept(broker) == pairs
    await broker.batches.ack("r", first.lease)
    assert await _kept(broker) == pairs[3:], "one acknowledged pair is kept"
    with pytest.raises(LogTrimmed, match="2 pairs"):
        await broker.runs.pairs("r", early, 10)
    fresh = await must_lease(broker, group="new", size=3)
    assert ids(fresh) == pairs[3:], "a new group begins with what is kept"


async def test_a_forgotten_group_keeps_nothing(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(keep=0))
    pairs = await append(broker, 2)
    await must_lease(broker, group="viewer")
    batch = await must_lease(broker)
    assert await broker.batches.delete_group("r", "viewer")
    assert not await broker.batches.delete_group("r", "viewer")
    assert await _kept(broker) == pairs
    await broker.batches.ack("r", batch.lease)
    assert await _kept(broker) == []


async def test_retention_trims_what_is_missed_and_counts_it(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(retention=2))
    await append(broker, 2)
    held = await must_lease(broker)
    pairs = await append(broker, 5)
    assert await _kept(broker) == pairs[3:]
    await broker.batches.nack("r", held.lease)
    assert ids(await must_lease(broker)) == pairs[3:]
    run = await broker.runs.get("r")
    assert run
    assert (run.groups[0].missed, run.trimmed, run.pairs) == (5, 5, 7)


async def test_a_lease_of_a_lost_log_says_so(broker: Broker) -> None:
    await append(broker, 2)
    batch = await must_lease(broker)
    await broker.connection.redis.flushall()
    with pytest.raises(LogChanged, match="no such run"):
        await broker.batches.ack("r", batch.lease)
    await append(broker, 2)
    with pytest.raises(LogChanged, match="made anew"):
        await broker.batches.ack("r", batch.lease)


async def test_a_stream_sends_what_is_acknowledged_in_time(
    http: httpx.AsyncClient, worker: Broker
) -> None:
    pairs = await append(worker, 6)
    seen: list[str] = []
    params = {"size": 2, "prefetch": 1}
    async with http.stream("GET", "/runs/r/batches", params=params) as stream:
        async for event in sse_events(stream):
            batch = Batch.model_validate_json(event["data"])
            seen += ids(batch)
            run = await worker.runs.get("r")
            assert run
            assert run.groups[0].leased == 2, "no more than the prefetch"
            done = await http.post(f"/runs/r/leases/{batch.lease}/ack")
            assert done.status_code == 204
            if len(seen) == 6:
                break
    assert seen == pairs


async def test_a_stream_goes_on_when_a_lease_runs_out(
    http: httpx.AsyncClient, worker: Broker
) -> None:
    """Nobody acknowledges, and nobody else looks."""
    pairs = await append(worker, 2)
    counts: list[int] = []
    params = {"size": 2, "prefetch": 1, "lease_s": 0.05}
    async with asyncio.timeout(8), http.stream("GET", "/runs/r/batches", params=params) as stream:
        async for event in sse_events(stream):
            batch = Batch.model_validate_json(event["data"])
            assert ids(batch) == pairs
            counts.append(batch.deliveries[0].count)
            if len(counts) == 5:
                break
    assert counts == [1, 2, 3, 4, 5]


async def test_leases_over_http(http: httpx.AsyncClient, worker: Broker) -> None:
    path = "/runs/r/leases"
    assert (await http.post(path, json={})).status_code == 404
    await append(worker, 1)
    assert (await http.post(path, json={"size": 2})).status_code == 204
    bad = await http.post(path, json={"size": 2, "min_size": 3})
    assert "`min_size` is 3, above `size`" in bad.json()["detail"]
    batch = (await http.post(path, json={"size": 1, "lease_s": 5})).json()
    renewed = await http.post(f"{path}/{batch['lease']}/renew", json={"lease_s": 100})
    assert renewed.json()["expires_at"] > batch["expires_at"]
    assert (await http.post(f"{path}/{batch['lease']}/renew")).status_code == 200
    assert (await http.post(f"{path}/{batch['lease']}/nack")).status_code == 204
    lost = await http.post(f"{path}/{batch['lease']}/ack")
    assert (lost.status_code, lost.json()["code"]) == (410, "lease_lost")
    assert (await http.delete("/runs/r/groups/nobody")).status_code == 404
    assert (await http.delete("/runs/r/groups/trainer")).status_code == 204
    for nonsense in ("x", "~~", "%00~x~y"):
        assert (await http.post(f"{path}/{nonsense}/ack")).status_code == 409


async def _kept(broker: Broker) -> list[str]:
    return [pair.pair_id for pair in (await broker.runs.pairs("r", None, 1000)).pairs]
