"""A client of today beside a service of tomorrow."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from service.client import AsyncClient, PrefstreamError
from service.schemas import UnknownResult
from tests.service.http import serving

NOW = datetime(2027, 1, 1, tzinfo=UTC).isoformat()
PAIR = {
    "prompt": [{"role": "user", "content": "?", "mood": "good"}],
    "images": [],
    "chosen": [{"role": "assistant", "content": "Yes."}],
    "rejected": [{"role": "assistant", "content": "No."}],
    "pair_id": "p",
    "run": "r",
    "method": "debate",
    "chosen_version": 1,
    "rejected_version": 1,
    "rejected_spans": [],
    "similarity": None,
    "iterations": None,
    "seed": 1,
    "created_at": NOW,
    "rounds": 7,
}
JOB = {
    "id": "j",
    "kind": "debate",
    "status": "paused",
    "run": "r",
    "priority": "urgent",
    "attempt": 1,
    "created_at": NOW,
    "shard": 3,
    "result": {"kind": "debate", "pairs": [PAIR], "speeches": ["…"]},
}


async def answer(request: Request) -> Response:
    match request.url.path:
        case "/jobs/j":
            return JSONResponse(JOB)
        case "/runs/r/leases":
            deliveries = [{"cursor": "e.1-1", "staleness": 0, "stale": False, "count": 1, "x": 1}]
            batch: dict[str, Any] = {"lease": "l", "run": "r", "group": "g", "expires_at": NOW}
            return JSONResponse(batch | {"pairs": [PAIR], "deliveries": deliveries, "shard": 1})
        case "/health/ready":
            return JSONResponse({"status": "degraded", "redis": True, "workers": [], "x": 1})
        case "/jobs/html":
            return Response("<html>", media_type="text/html")
        case _:
            problem = {
                "title": "",
                "status": 409,
                "code": "of_tomorrow",
                "detail": "So.",
                "hint": 1,
            }
            return Response(json.dumps(problem), 409, media_type="application/problem+json")


@pytest_asyncio.fixture
async def client() -> AsyncIterator[AsyncClient]:
    with serving(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])) as url:
        async with AsyncClient(url, retry_for_s=0) as client:
            yield client


async def test_jobs_of_tomorrow(client: AsyncClient) -> None:
    job = await client.job("j")
    assert (job.kind, job.status, job.priority, job.ended) == ("debate", "paused", "urgent", False)
    assert isinstance(job.result, UnknownResult)
    assert job.result.kind == "debate"
    assert job.result.root["speeches"] == ["…"]
    assert [(pair.pair_id, pair.method) for pair in job.result.pairs] == [("p", "debate")]


async def test_batches_of_tomorrow(client: AsyncClient) -> None:
    batch = await client.lease("r")
    assert batch
    assert [pair.method for pair in batch.pairs] == ["debate"]
    assert (await client.health()).status == "degraded"


async def test_problems_of_tomorrow(client: AsyncClient) -> None:
    with pytest.raises(PrefstreamError, match="409 of_tomorrow: So") as raised:
        await client.job("other")
    assert raised.value.problem.code == "of_tomorrow"


async def test_what_is_no_answer_says_so(client: AsyncClient) -> None:
    with pytest.raises(PrefstreamError, match="jobs/html answered what this client cannot read"):
        await client.job("html")
