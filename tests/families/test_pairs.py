"""What a worker makes of jobs on every family: pairs of all kinds, and the same again."""

import pytest

from service.broker import Broker
from service.commands import replay
from service.schemas import (
    BdhsResult,
    Job,
    JobRequest,
    JobStatus,
    SampleRequest,
    SampleResult,
)
from service.settings import Settings
from tests.families.served import Served
from tests.servers import Server
from tests.worker.jobs import bdhs, ended, png, working
from tests.worker.test_pairs import assert_tokens_of_bdhs
from worker.embedder import EMBEDDED, Embedder

VARIANTS = [
    {"rho": 0.5},
    {"corruption": "noise"},
    {"corruption": "attention+noise", "rho": 0.8},
    {"guidance": "none", "rho": 1.0},
    {"guidance": "answer", "rho": 1.0},
    {"corruption": "noise", "guidance": "token"},
]


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return Embedder(EMBEDDED)


@pytest.fixture
def settings(server: Server) -> Settings:
    return Settings(redis_url=server.url, lease_s=30, retry_base_s=0)  # pyright: ignore[reportArgumentType]


async def run(broker: Broker, request: JobRequest) -> Job:
    job = await ended(broker, (await broker.jobs.enqueue(request)).id)
    assert job.status is JobStatus.succeeded, job.error
    return job


async def test_its_pairs_are_made_and_made_again(
    served: Served, settings: Settings, embedder: Embedder
) -> None:
    engine = served.engine
    async with Broker.connect(settings) as broker, working(settings, engine, embedder):
        images = [await broker.images.put(png(seed)) for seed in (1, 2)]
        for number, variant in enumerate(VARIANTS):
            request = bdhs(trace="full", seed=number, max_iterations=2, **variant)(images[0])
            made = (await run(broker, request)).result
            assert isinstance(made, BdhsResult)
            assert made.trace is not None
            if variant.get("guidance") != "token":
                assert_tokens_of_bdhs(engine, made.pairs[0], made.trace.iterations[-1])
            again = (await run(broker, replay.replay_request(made.pairs[0], made.trace))).result
            assert isinstance(again, BdhsResult)
            assert replay.differences(made.pairs[0], made.trace, again) == []
        await several_images(broker, images)
        await ranked(broker, images[0])


async def several_images(broker: Broker, images: list[str]) -> None:
    """Those that are named are spoilt, each by its own draw; the trace says so of each."""
    request = bdhs(rho=0.5, seed=3)(images[0]).model_copy(
        update={"images": [*images, images[0]], "corrupt_images": [0, 2]}
    )
    made = (await run(broker, request)).result
    assert isinstance(made, BdhsResult)
    assert made.trace is not None
    assert len(made.trace.images) == 3
    for iteration in made.trace.iterations:
        kept = [image.kept for image in iteration.images]
        hidden = [image.tokens - len(k) for image, k in zip(made.trace.images, kept, strict=True)]
        assert hidden[1] == 0
        assert min(hidden[0], hidden[2]) > 0
        assert kept[0] != kept[2]
    again = (await run(broker, replay.replay_request(made.pairs[0], made.trace))).result
    assert isinstance(again, BdhsResult)
    assert replay.differences(made.pairs[0], made.trace, again) == []


async def ranked(broker: Broker, image: str) -> None:
    """By the policy itself. A random model's verdicts mean nothing; they are asked for and kept."""
    request = SampleRequest(
        prompt="What is it?", images=[image], n=2, max_tokens=8, annotator="self", seed=1
    )
    made = (await run(broker, request)).result
    assert isinstance(made, SampleResult)
    assert made.annotation is not None
    assert len(made.annotation.judgements) == 2
