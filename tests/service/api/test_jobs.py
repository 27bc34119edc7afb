"""Jobs polled, cancelled and followed."""

import asyncio
import json

import httpx
import pytest

from service.broker import Broker
from tests.service.http import sse_events
from tests.service.samples import claim_one, enqueue, sample_result

pytestmark = pytest.mark.asyncio


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
