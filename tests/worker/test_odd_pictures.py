"""Pictures so thin or small that processors stumble: answered, or refused once."""

from io import BytesIO

import pytest
from PIL import Image

from service.broker import Broker
from service.schemas import (
    BdhsRequest,
    JobRequest,
    JobStatus,
    LogprobsRequest,
    SampleRequest,
    View,
)
from service.settings import Settings
from tests.worker.jobs import ended, working
from worker.embedder import Embedder
from worker.engine import Engine

SIZES = [(1, 1), (3, 3), (64, 1), (1, 64), (200, 3), (3, 1)]


def requests_for(image: str) -> list[JobRequest]:
    asked = {"prompt": "Describe.", "images": [image]}
    views = [View(), View(rho=0.5), View(noise_steps=100)]
    return [
        SampleRequest.model_validate({**asked, "max_tokens": 2}),
        BdhsRequest.model_validate({**asked, "max_tokens": 2, "reference": "Red.", "rho": 0.5}),
        LogprobsRequest.model_validate({**asked, "responses": ["Red."], "views": views}),
    ]


async def stored(broker: Broker, size: tuple[int, int]) -> str:
    out = BytesIO()
    Image.new("RGB", size, "red").save(out, "PNG")
    return await broker.images.put(out.getvalue())


async def test_thin_and_small_pictures_are_answered(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    async with Broker.connect(settings) as broker, working(settings, engine, embedder):
        for size in SIZES:
            for request in requests_for(await stored(broker, size)):
                job = await ended(broker, (await broker.jobs.enqueue(request)).id)
                assert (job.status, job.attempt) == (JobStatus.succeeded, 1), (size, job.error)


async def test_a_picture_that_the_processor_refuses_fails_the_job_once(
    settings: Settings, engine: Engine, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(image: Image.Image, ref: str) -> None:
        raise ValueError("absolute aspect ratio must be smaller than 200")

    monkeypatch.setattr(engine._processor, "placeholder", refuse)
    async with Broker.connect(settings) as broker, working(settings, engine, embedder):
        for request in requests_for(await stored(broker, (201, 1))):
            job = await ended(broker, (await broker.jobs.enqueue(request)).id)
            assert (job.status, job.attempt) == (JobStatus.failed, 1)
            assert job.error
            assert job.error.code == "image_refused"
            assert job.error.details == {"width": 201, "height": 1}
            assert "aspect ratio" in job.error.message
