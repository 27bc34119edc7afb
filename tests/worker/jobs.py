"""A worker at work, and jobs for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from io import BytesIO

import numpy as np
from PIL import Image

from service.broker import Broker
from service.schemas import BdhsRequest, Job, JobRequest
from service.settings import Settings
from worker.embedder import Embedder
from worker.engine import Engine
from worker.main import Worker
from worker.settings import WorkerSettings

REFERENCE = "There is a red circle in the top left. There is a blue square in the bottom right."


@asynccontextmanager
async def working(
    settings: Settings, engine: Engine, embedder: Embedder, **worker_settings: object
) -> AsyncIterator[Worker]:
    async with Broker.connect(settings) as broker:
        worker = Worker(broker, engine, embedder, WorkerSettings.model_validate(worker_settings))
        async with asyncio.TaskGroup() as group:  # a worker that breaks ends the test
            group.create_task(worker.run())
            yield worker
            worker.stop()


def png(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


async def submit(broker: Broker, make: Callable[[str], JobRequest], seed: int = 0) -> str:
    request = make(await broker.images.put(png(seed)))
    return (await broker.jobs.enqueue(request)).id


def bdhs(**settings: object) -> Callable[[str], BdhsRequest]:
    body = {"prompt": "Describe.", "reference": REFERENCE, "max_tokens": 12, **settings}
    return lambda ref: BdhsRequest.model_validate({**body, "images": [ref]})


async def ended(broker: Broker, job_id: str) -> Job:
    job = await broker.jobs.wait(job_id, 120)
    assert job is not None
    assert job.ended, job
    return job
