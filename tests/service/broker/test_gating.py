"""Which group a run's window follows, and for whom its log is kept."""

import asyncio

import pytest

from service.broker import Broker, WindowFull
from service.client import AsyncClient, NotFound
from service.schemas import Group, PairRequest, RunSettings
from tests.servers import Server
from tests.service.broker.leasing import ids, lease, must_lease
from tests.service.commands.running import prefstream
from tests.service.samples import append, enqueue_bdhs
from tests.waiting import until


async def kept(broker: Broker) -> list[str]:
    return [pair.pair_id for pair in (await broker.runs.pairs("r", None, 1000)).pairs]


async def groups(broker: Broker) -> dict[str, Group]:
    run = await broker.runs.get("r")
    assert run
    return {group.name: group for group in run.groups}


async def age(broker: Broker, group: str) -> None:
    """It was heard of last a long time ago."""
    key = broker.connection.key("run", "r", "group", group)
    await broker.connection.redis.hset(key, "last_active", 1)


async def test_the_window_follows_the_group_that_the_run_names(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(window=2, gating_group="mine"))
    await append(broker, 2)
    await must_lease(broker, group="trainer")
    with pytest.raises(WindowFull, match=r"group 'mine' has not taken .* `gating_group`"):
        await enqueue_bdhs(broker, run="r")
    await must_lease(broker, group="mine")
    await append(broker, 2)


async def test_without_a_gating_group_the_window_bounds_open_jobs(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(window=2, gating_group=None, keep=3))
    pairs = await append(broker, 5)
    await enqueue_bdhs(broker, run="r")
    await enqueue_bdhs(broker, run="r")
    with pytest.raises(WindowFull, match="has 2 open jobs, and its window is 2"):
        await enqueue_bdhs(broker, run="r")
    assert await kept(broker) == pairs[2:], "the newest, whether somebody had them or not"
    assert ids(await must_lease(broker, size=3)) == pairs[2:]


async def test_pairs_are_kept_by_their_number_whoever_holds_them(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(gating_group=None, keep=3))
    pairs = await append(broker, 3)
    held = await must_lease(broker)
    pairs += await append(broker, 3)
    assert await kept(broker) == pairs[3:]
    await broker.batches.nack("r", held.lease)
    assert ids(await must_lease(broker, size=3)) == pairs[3:]
    assert (await groups(broker))["trainer"].missed == 3
    await broker.runs.put("r", RunSettings(keep=1))
    assert await kept(broker) == pairs[5:]


async def test_nothing_is_trimmed_before_the_gating_group_came(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(keep=0, window=3))
    pairs = await append(broker, 3)
    batch = await must_lease(broker, group="viewer", size=3)
    await broker.batches.ack("r", batch.lease)
    assert await kept(broker) == pairs
    with pytest.raises(WindowFull):
        await enqueue_bdhs(broker, run="r")
    batch = await must_lease(broker, size=3)
    await broker.batches.ack("r", batch.lease)
    assert await kept(broker) == []


@pytest.mark.parametrize("name", ["trianer", "viewer"])
async def test_a_group_that_is_not_heard_of_does_not_keep_the_log(
    broker: Broker, name: str
) -> None:
    """One that asked once by a wrong name; one that had some and stays away."""
    await broker.runs.put("r", RunSettings(keep=0))
    pairs = await append(broker, 4)
    if name == "viewer":
        batch = await must_lease(broker, group=name)
        await broker.batches.ack("r", batch.lease)
    else:
        assert await lease(broker, group=name, size=9) is None
    first, second = await must_lease(broker), await must_lease(broker)
    await broker.batches.ack("r", first.lease)
    assert await kept(broker) == (pairs[2:] if name == "viewer" else pairs)
    await age(broker, name)
    await broker.batches.ack("r", second.lease)
    assert await kept(broker) == []
    pairs = await append(broker, 2)
    assert ids(await must_lease(broker, group=name)) == pairs, "it goes on with what is kept"
    assert (await groups(broker))[name].missed == (2 if name == "viewer" else 4)


async def test_a_group_that_holds_a_lease_is_there(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(keep=0))
    pairs = await append(broker, 2)
    held, batch = await must_lease(broker, group="viewer"), await must_lease(broker)
    await age(broker, "viewer")
    await broker.batches.ack("r", batch.lease)
    assert await kept(broker) == pairs
    await broker.batches.ack("r", held.lease)
    assert await kept(broker) == []


async def test_a_run_may_wait_for_its_groups_for_ever(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(keep=0, group_ttl_s=None))
    pairs = await append(broker, 2)
    assert await lease(broker, group="viewer", size=9) is None
    await age(broker, "viewer")
    batch = await must_lease(broker)
    await broker.batches.ack("r", batch.lease)
    assert await kept(broker) == pairs


async def test_the_gating_group_may_stay_away(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(keep=0))
    pairs = await append(broker, 2)
    assert await lease(broker, size=9) is None
    await age(broker, "trainer")
    batch = await must_lease(broker, group="viewer")
    await broker.batches.ack("r", batch.lease)
    assert await kept(broker) == pairs


async def test_who_waits_learns_of_new_settings(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(window=100))
    pairs = await append(broker, 2)
    waiting = asyncio.create_task(must_lease(broker, size=9, wait_s=60))
    await until(lambda: _asked(broker))
    await broker.runs.put("r", RunSettings(window=2))
    assert ids(await asyncio.wait_for(waiting, 20)) == pairs


async def _asked(broker: Broker) -> bool:
    return "trainer" in await groups(broker)


@pytest.mark.parametrize("transport", ["http", "redis"])
async def test_a_group_is_forgotten(
    transport: str, url: str, server: Server, worker: Broker
) -> None:
    async with AsyncClient(url if transport == "http" else server.url) as client:
        await client.put_run("r", RunSettings(gating_group=None))
        await client.append("r", PairRequest(prompt="?", chosen="Yes.", rejected="No."))
        for name in ("one", "other"):
            batch = await client.lease("r", group=name, size=1)
            assert batch
            await batch.ack()
        await client.delete_group("r", "one")
        with pytest.raises(NotFound, match="no group 'one'"):
            await client.delete_group("r", "one")
    assert set(await groups(worker)) == {"other"}
    assert "other" in prefstream(server, "runs").output
    assert "forgotten" in prefstream(server, "runs", "forget", "r", "other").output
    assert await groups(worker) == {}
