"""The rest of the HTTP face."""

import asyncio
import json
from datetime import UTC, datetime

import httpx
import pytest

from service.broker import Broker
from service.schemas import WorkerInfo
from service.settings import Settings
from tests.servers import Server
from tests.service.http import served, sse_events
from tests.service.samples import claim_one, enqueue, png, sample_result

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


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/jobs/" + "0" * 32, 404),
        ("GET", "/jobs/%00%ff", 404),
        ("GET", "/jobs/x?wait_s=-1", 422),
        ("GET", "/jobs/x?wait_s=nan", 422),
        ("GET", "/jobs/x/events", 404),
        ("DELETE", "/jobs/x", 404),
        ("PATCH", "/jobs/x", 405),
        ("GET", "/runs/unknown", 404),
        ("GET", "/runs/-bad-", 422),
        ("GET", "/runs/unknown/pairs", 404),
        ("GET", "/runs/r/pairs?after=x", 422),
        ("GET", "/runs/r/pairs?limit=0", 422),
        ("GET", "/images/xyz", 422),
        ("GET", "/images/" + "0" * 64, 404),
    ],
)
async def test_every_error_is_a_problem(
    http: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    response = await http.request(method, path)
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["code"]


async def test_a_job_is_polled_and_cancelled(http: httpx.AsyncClient, worker: Broker) -> None:
    job = await enqueue(worker)
    waiting = asyncio.create_task(http.get(f"/jobs/{job.id}?wait_s=20"))
    assert (await http.delete(f"/jobs/{job.id}")).json()["status"] == "cancelled"
    assert (await waiting).json()["status"] == "cancelled"


async def test_progress_is_streamed_and_resumed(http: httpx.AsyncClient, worker: Broker) -> None:
    job = await enqueue(worker)
    claim = await claim_one(worker)
    await worker.claims.progress(claim, {"step": 1})
    path = f"/jobs/{job.id}/events"
    events: list[dict[str, str]] = []
    async with http.stream("GET", path) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        async for event in sse_events(stream):
            events.append(event)
            if len(events) == 2:
                break
    assert [event["event"] for event in events] == ["progress", "status"]

    # The connection is gone; meanwhile things happen.
    await worker.claims.progress(claim, {"step": 2})
    await worker.claims.finish(claim, sample_result())
    async with http.stream("GET", path, headers={"Last-Event-ID": events[0]["id"]}) as stream:
        rest = [event async for event in sse_events(stream)]
    assert [json.loads(event["data"]) for event in rest] == [
        {"step": 2},
        {"status": "succeeded", "attempt": 1, "error": None},
    ]
    over = await http.get(path, headers={"Last-Event-ID": rest[-1]["id"]})
    assert over.status_code == 204
    bad = await http.get(path, headers={"Last-Event-ID": "x"})
    assert bad.status_code == 422


async def test_images_are_stored_once(http: httpx.AsyncClient) -> None:
    first = await http.post("/images", content=png("blue", (9, 7)))
    assert first.status_code == 201
    stored = first.json()
    assert (stored["format"], stored["width"], stored["height"]) == ("png", 9, 7)
    assert (await http.post("/images", content=png("blue", (9, 7)))).json() == stored
    assert (await http.get(f"/images/{stored['image'][7:]}")).content == png("blue", (9, 7))
    assert (await http.post("/images", content=b"no image")).status_code == 422


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


async def test_the_api_key_guards_all_but_health(server: Server) -> None:
    settings = Settings.model_validate({"redis_url": server.url, "api_key": "s3cret"})
    with served(settings) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            assert (await http.get("/health/live")).status_code == 200
            assert (await http.get("/health/ready")).status_code == 200
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
                refused = await http.get("/runs/r", headers=headers)
                assert refused.status_code == 401
                assert refused.headers["WWW-Authenticate"] == "Bearer"
                assert refused.json()["code"] == "unauthorized"
            known = await http.get("/runs/r", headers={"Authorization": "Bearer s3cret"})
            assert known.status_code == 404


async def test_openapi_names_every_route(http: httpx.AsyncClient) -> None:
    spec = (await http.get("/openapi.json")).json()
    assert {"/sample", "/bdhs", "/jobs/{job_id}", "/runs/{run}/pairs"} <= set(spec["paths"])
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
    assert (await http.get("/docs")).status_code == 200


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
