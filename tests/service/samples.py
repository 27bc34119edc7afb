"""Requests, results and images for tests."""

import io
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from PIL import Image

from service.broker import Broker, Claim
from service.schemas import (
    BdhsRequest,
    BdhsResult,
    Job,
    Outcome,
    Pair,
    SampleRequest,
    SampleResult,
    WeightVersion,
    WorkerInfo,
    assistant_turn,
)

PAIRS: dict[str, dict[str, Any]] = {
    "pair": {},
    "same": {"rejected": [assistant_turn("A red square.")]},
    "similar": {"similarity": 0.98},
    "filtered": {"rejected_finish_reason": "length"},
}
"""Fields of a pair, by what comes of it in a run that drops what is similar and takes what ended by
itself."""


def png(colour: str = "red", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format="PNG")
    return buffer.getvalue()


def sample_request(**fields: Any) -> SampleRequest:
    return SampleRequest(**{"prompt": "What is this?", **fields})


async def enqueue(broker: Broker, **fields: Any) -> Job:
    return await broker.jobs.enqueue(sample_request(**fields))


async def enqueue_bdhs(broker: Broker, **fields: Any) -> Job:
    ref = await broker.images.put(png())
    request = BdhsRequest(
        **{"prompt": "What is this?", "reference": "A red square.", "images": [ref], **fields}
    )
    return await broker.jobs.enqueue(request)


async def claim_one(broker: Broker, worker_id: str = "w1", block_s: float = 10) -> Claim:
    [claim] = await broker.claims.claim(worker_id, 1, block_s=block_s)
    return claim


def sample_result() -> SampleResult:
    return SampleResult(responses=[], seed=1)


def bdhs_result(claim: Claim, version: int | None = 0, **fields: Any) -> BdhsResult:
    """`fields`: of its pair."""
    request = claim.request
    assert isinstance(request, BdhsRequest)
    said: dict[str, Any] = {
        "prompt": request.conversation,
        "images": request.images,
        "chosen": [assistant_turn(request.reference)],
        "rejected": [assistant_turn("A blue circle.")],
        "pair_id": claim.job_id,
        "run": request.run,
        "method": "bdhs-attention",
        "chosen_version": None,
        "rejected_version": version,
        "rejected_spans": [],
        "similarity": 0.5,
        "iterations": 1,
        "seed": 1,
        "settings": request.settings,
        "created_at": datetime.now(UTC),
    }
    return BdhsResult(outcome=Outcome.pair, pairs=[Pair(**said | fields)], trace=None)


def weight_version(version: int) -> WeightVersion:
    return WeightVersion(
        version=version, kind="lora", location=f"/weights/{version}", manifest_sha256="0" * 64
    )


async def serve(broker: Broker, version: int, worker_id: str = "w1", **fields: Any) -> None:
    """A worker says that it serves this version."""
    said: dict[str, Any] = {
        "id": worker_id,
        "model": "toy",
        "weight_version": version,
        "slots": 1,
        "running": 0,
        "engine_ready": True,
        "heartbeat_at": datetime.now(UTC),
    }
    await broker.workers.heartbeat(WorkerInfo(**said | fields))


async def append(
    broker: Broker, count: int, *, run: str = "r", version: int | None = 0
) -> list[str]:
    """Makes pairs, in order, and returns their ids."""
    made: list[str] = []
    for _ in range(count):
        await enqueue_bdhs(broker, run=run)
        claim = await claim_one(broker)
        assert await broker.claims.finish(claim, bdhs_result(claim, version))
        made.append(claim.job_id)
    return made


def twice(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """A call whose first reply is lost and which is sent again, as redis-py does it."""

    async def called(*args: Any) -> Any:
        await call(*args)
        return await call(*args)

    return called
