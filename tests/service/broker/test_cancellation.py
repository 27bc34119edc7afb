"""A call that is cancelled ends, at whatever moment; one that is not answered fails."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from service.broker import UNAVAILABLE, Broker, pipeline
from service.schemas import LeaseRequest, RunSettings
from service.settings import Settings
from tests.servers import Server
from tests.service.samples import enqueue

CALLS: dict[str, Callable[[Broker, str], Coroutine[Any, Any, object]]] = {
    "claim": lambda broker, _: broker.claims.claim("w", 1, block_s=30),
    "wait": lambda broker, job_id: broker.jobs.wait(job_id, 30),
    "lease": lambda broker, _: broker.batches.lease("r", LeaseRequest(wait_s=30)),
    "newer": lambda broker, _: broker.weights.wait_newer(0, 30),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_cancelled_call_ends(server: Server, name: str) -> None:
    """redis-py's own timeouts swallowed about every sixth cancellation here, on Python 3.11."""
    settings = Settings.model_validate({"redis_url": server.url})
    for steps in range(60):
        async with Broker.connect(settings) as broker:  # a new one, so that it connects first
            await broker.runs.put("r", RunSettings())
            job_id = "0" * 32
            if name == "wait":
                job_id = (await enqueue(broker)).id
            call = asyncio.create_task(CALLS[name](broker, job_id))
            for _ in range(steps):
                await asyncio.sleep(0)
            call.cancel()
            done, _ = await asyncio.wait({call}, timeout=10)
            assert done, f"not cancelled after {steps} steps"
            assert call.cancelled()


async def test_a_frozen_server_is_noticed(
    own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "TIMEOUT_S", 0.2)
    settings = Settings.model_validate({"redis_url": own_server.url})
    async with Broker.connect(settings) as broker:
        await broker.ping()
        own_server.send(signal.SIGSTOP)
        with pytest.raises(UNAVAILABLE, match=r"no answer within 0\.2 s"):
            await broker.ping()
        own_server.send(signal.SIGCONT)
        await broker.ping()
