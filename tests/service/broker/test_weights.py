"""Versions of the policy: announced, adopted, refused."""

import asyncio
from datetime import UTC, datetime

import httpx
import pytest

from service.broker import Broker, VersionNotNewer
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
    assert (await http.get("/weights")).json() == {"newest": None, "workers": [], "refused": []}
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
