"""Readiness, and Redis that goes away."""

import asyncio
from datetime import UTC, datetime

import httpx
import pytest

from service.broker import Broker
from service.schemas import WorkerInfo
from service.settings import Settings
from tests.servers import Server
from tests.service.http import served
from tests.service.samples import claim_one, sample_request, sample_result

pytestmark = pytest.mark.asyncio

INFO = WorkerInfo(
    id="w1",
    model="toy",
    weight_version=0,
    slots=4,
    running=0,
    engine_ready=True,
    heartbeat_at=datetime(2026, 1, 1, tzinfo=UTC),
)


async def test_ready_means_that_jobs_are_taken_in(http: httpx.AsyncClient, worker: Broker) -> None:
    assert (await http.get("/health/live")).json() == {"status": "ok"}
    nobody = await http.get("/health/ready")
    assert (nobody.status_code, nobody.json()["workers"]) == (200, [])
    await worker.workers.heartbeat(INFO)
    ready = await http.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["workers"] == [INFO.model_dump(mode="json")]
    await worker.workers.unregister("w1")
    assert (await http.get("/health/ready")).json()["workers"] == []


@pytest.mark.parametrize(("key", "task"), [("deadlines", "sweeper"), ("images", "image sweeper")])
async def test_a_sweep_that_fails_is_tried_again_and_said_so(
    server: Server, key: str, task: str
) -> None:
    settings = Settings.model_validate({"redis_url": server.url})
    with served(settings) as url:
        async with (
            httpx.AsyncClient(base_url=url, timeout=30) as http,
            Broker.connect(settings) as broker,
        ):
            spoilt = broker.connection.key(key)
            await broker.connection.redis.set(spoilt, "of another type")
            while (ready := await http.get("/health/ready")).json()["failing"] != [task]:
                await asyncio.sleep(0.05)
            assert (ready.status_code, ready.json()["redis"]) == (503, True)
            job = await broker.jobs.enqueue(sample_request())
            await broker.connection.redis.delete(spoilt)
            while (await http.get("/health/ready")).status_code != 200:
                await asyncio.sleep(0.05)
            assert (await http.get(f"/jobs/{job.id}")).json()["status"] == "queued"


async def test_who_waits_is_answered_though_nobody_rings(own_server: Server) -> None:
    """The user that the service is may no longer listen to channels."""
    settings = Settings.model_validate({"redis_url": own_server.url})
    other = own_server.url.replace("redis://", "redis://other:secret@")
    with served(settings) as url:
        async with (
            httpx.AsyncClient(base_url=url, timeout=30) as http,
            Broker.connect(settings) as broker,
            Broker.connect(Settings.model_validate({"redis_url": other})) as worker,
        ):
            command = broker.connection.command
            rights = ("~*", "&*", "+@all")
            await command("ACL", "SETUSER", "other", "on", ">secret", *rights)
            jobs = [await worker.jobs.enqueue(sample_request()) for _ in range(2)]
            early = asyncio.create_task(http.get(f"/jobs/{jobs[0].id}?wait_s=60"))
            late = asyncio.create_task(http.get("/weights?settled=1&wait_s=0.01"))
            await late
            await command("ACL", "SETUSER", "default", "resetchannels")
            failing = ["notifications"]
            while (ready := await http.get("/health/ready")).json()["failing"] != failing:
                await asyncio.sleep(0.05)
            assert (ready.status_code, ready.json()["redis"]) == (503, True)
            late = asyncio.create_task(http.get(f"/jobs/{jobs[1].id}?wait_s=60"))
            for _ in jobs:
                await worker.claims.finish(await claim_one(worker), sample_result())
            for waiting in (early, late):
                assert (await waiting).json()["status"] == "succeeded"
            await command("ACL", "SETUSER", "default", "allchannels")
            while (await http.get("/health/ready")).status_code != 200:
                await asyncio.sleep(0.05)


async def test_redis_may_go_away_and_come_back(own_server: Server) -> None:
    settings = Settings.model_validate({"redis_url": own_server.url})
    with served(settings) as url:
        async with httpx.AsyncClient(base_url=url, timeout=30) as http:
            accepted = await http.post("/sample", json={"prompt": "before"})
            waiting = asyncio.create_task(http.get(f"{accepted.headers['Location']}?wait_s=60"))
            own_server.kill()
            away = await http.post("/sample", json={"prompt": "while"})
            assert (away.status_code, away.json()["code"]) == (503, "redis_unavailable")
            assert away.headers["Retry-After"]
            ready = await http.get("/health/ready")
            assert (ready.status_code, ready.json()["redis"]) == (503, False)
            assert (await waiting).status_code == 503

            own_server.start()
            back = await http.get(accepted.headers["Location"])
            assert back.json()["status"] == "queued", "what was accepted must still be there"
            waiting = asyncio.create_task(http.get(f"{accepted.headers['Location']}?wait_s=60"))
            async with Broker.connect(settings) as worker:
                await worker.claims.finish(await claim_one(worker), sample_result())
            assert (await waiting).json()["status"] == "succeeded"
