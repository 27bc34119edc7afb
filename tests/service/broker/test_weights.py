"""Versions of the policy: announced, adopted, refused."""

import asyncio
from datetime import UTC, datetime

import httpx
import pytest

from service.broker import Broker, VersionNotNewer, VersionTooFar, VersionWithdrawn
from service.schemas import WorkerInfo
from tests.service.samples import weight_version


def info(worker_id: str, version: int) -> WorkerInfo:
    return WorkerInfo(
        id=worker_id,
        model="toy",
        weight_version=version,
        slots=1,
        running=0,
        engine_ready=True,
        heartbeat_at=datetime.now(UTC),
    )


async def test_versions_only_grow(broker: Broker) -> None:
    assert await broker.weights.newest() is None
    await broker.weights.announce(weight_version(3))
    await broker.weights.announce(weight_version(3))  # a repeated call after a lost reply
    assert await broker.weights.newest() == weight_version(3)
    for version in (2, 3):
        other = weight_version(version).model_copy(update={"location": "/elsewhere"})
        with pytest.raises(VersionNotNewer, match="announce 4 or above"):
            await broker.weights.announce(other)


async def test_one_step_does_not_block_all_later_ones(broker: Broker) -> None:
    await broker.weights.announce(weight_version(3))
    for version in (2**53, 2**31, 1_000_004):
        with pytest.raises(VersionTooFar, match="announce 4"):
            await broker.weights.announce(weight_version(version))
    await broker.weights.announce(weight_version(1_000_003))
    with pytest.raises(VersionTooFar):
        await broker.weights.announce(weight_version(2**53))


async def test_a_withdrawn_version_leaves_the_one_before(broker: Broker) -> None:
    for version in (1, 2, 500):
        await broker.weights.announce(weight_version(version))
    assert await broker.weights.withdraw(500)
    assert await broker.weights.withdraw(500)  # a repeated call after a lost reply
    assert not await broker.weights.withdraw(3)
    assert await broker.weights.newest() == weight_version(2)
    assert await broker.weights.newest_first(9) == [weight_version(2), weight_version(1)]
    assert await broker.weights.get(500) is None
    assert await broker.weights.is_withdrawn(500)
    with pytest.raises(VersionWithdrawn, match="announce 3 or above"):
        await broker.weights.announce(weight_version(500))
    await broker.weights.withdraw(1)
    await broker.weights.withdraw(2)
    assert await broker.weights.newest() is None
    assert (await broker.weights.state()).withdrawn == [1, 2, 500]
    with pytest.raises(VersionWithdrawn, match="announce 3 or above"):
        await broker.weights.announce(weight_version(1))
    await broker.weights.announce(weight_version(3))
    assert await broker.weights.newest() == weight_version(3)


async def test_what_is_remembered_is_bounded(broker: Broker) -> None:
    for version in range(1, 152):
        await broker.weights.announce(weight_version(version))
    assert len(await broker.weights.newest_first(1000)) == 100
    await broker.weights.withdraw(51)
    assert not await broker.weights.withdraw(51 - 1), "long ago"
    await broker.weights.announce(weight_version(152))
    assert (await broker.weights.state()).withdrawn == []
    await broker.weights.refuse("w", 152, "x" * 10**6)
    [refusal] = (await broker.weights.state()).refused
    assert len(refusal.reason) == 1000


async def test_a_worker_waits_for_something_newer(broker: Broker) -> None:
    await broker.weights.announce(weight_version(1))
    assert await broker.weights.wait_newer(0, 0) == weight_version(1)
    assert await broker.weights.wait_newer(1, 0.01) is None
    waiting = asyncio.create_task(broker.weights.wait_newer(1, 60))
    await asyncio.sleep(0)
    await broker.weights.announce(weight_version(2))
    assert await asyncio.wait_for(waiting, 10) == weight_version(2)


async def test_a_version_is_settled_when_all_adopted_or_refused_it(broker: Broker) -> None:
    await broker.workers.heartbeat(info("a", 0))
    await broker.workers.heartbeat(info("b", 0))
    await broker.weights.announce(weight_version(1))
    waiting = asyncio.create_task(broker.weights.wait_adopted(1, 60))
    await broker.workers.heartbeat(info("a", 1))
    assert await broker.weights.wait_adopted(1, 0.01) is None
    await broker.weights.refuse("b", 1, "rank 64 is above 16")
    state = await asyncio.wait_for(waiting, 10)
    assert state
    assert [(w.id, w.weight_version) for w in state.workers] == [("a", 1), ("b", 0)]
    assert [(r.worker_id, r.reason) for r in state.refused] == [("b", "rank 64 is above 16")]


async def test_old_refusals_are_forgotten(broker: Broker) -> None:
    await broker.weights.refuse("a", 1, "no")
    await broker.weights.announce(weight_version(101))
    assert len((await broker.weights.state()).refused) == 1
    await broker.weights.announce(weight_version(102))
    assert (await broker.weights.state()).refused == []


async def test_over_http(http: httpx.AsyncClient, worker: Broker) -> None:
    assert (await http.get("/weights")).json() == {
        "newest": None,
        "workers": [],
        "refused": [],
        "withdrawn": [],
    }
    body = weight_version(1).model_dump()
    announced = await http.post("/weights", json=body)
    assert (announced.status_code, announced.json()["newest"]["version"]) == (201, 1)
    await http.post("/weights", json=body | {"version": 2})
    old = await http.post("/weights", json=body)
    assert (old.status_code, old.json()["code"]) == (409, "version_not_newer")
    await worker.workers.heartbeat(info("a", 0))
    waiting = asyncio.create_task(http.get("/weights?settled=2&wait_s=20"))
    await worker.workers.heartbeat(info("a", 2))
    assert (await waiting).json()["workers"][0]["weight_version"] == 2
    far = await http.post("/weights", json=body | {"version": 2**53})
    assert (far.status_code, far.json()["code"]) == (422, "version_too_far")
    foreign = await http.post("/weights", json=body | {"version": 3, "location": "foo://b/3"})
    assert (foreign.status_code, foreign.json()["code"]) == (422, "unknown_scheme")
    assert "foo://" in foreign.json()["detail"]
    left = await http.delete("/weights/2")
    assert (left.status_code, left.json()["newest"], left.json()["withdrawn"]) == (200, body, [2])
    assert (await http.delete("/weights/2")).status_code == 200
    unknown = await http.delete("/weights/7")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "version_not_found")
    for nonsense in ("0", "-1", "x", str(2**60)):
        assert (await http.delete(f"/weights/{nonsense}")).status_code == 422
