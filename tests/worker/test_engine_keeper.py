"""Engines that die: killed while they work, while they start, while they get their adapter back, or
of whatever they are asked."""

import asyncio
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.broker import Broker
from service.schemas import Job, JobStatus, SampleRequest
from service.settings import Settings
from service.weight_store import WeightStore
from tests.servers import Server
from tests.worker.adapters import make_adapter
from tests.worker.jobs import bdhs, submit, working
from worker import engine_keeper
from worker.embedder import Embedder
from worker.engine import Engine, EngineDied
from worker.engine_keeper import EngineKeepsDying, start_engine
from worker.main import Worker
from worker.settings import WorkerSettings

pytestmark = pytest.mark.timeout(900)  # several engines start, one after the other

LONG = bdhs(max_tokens=200, rho=0.0, max_iterations=3, similarity_threshold=-1.0)


@pytest.fixture
def settings(server: Server) -> Settings:
    return Settings.model_validate({"redis_url": server.url, "lease_s": 10, "retry_base_s": 0})


@pytest.fixture
async def engine(engine: Engine):
    """Comes back alive to the tests that follow."""
    yield engine
    if not engine.alive:
        await engine.restart()


async def ended(broker: Broker, job_id: str) -> Job:
    """However long engines take to start."""
    job = await broker.jobs.wait(job_id, 600)
    assert job is not None
    assert job.ended, job
    return job


def kill_engine() -> list[int]:
    """As `kill -9`."""
    processes = multiprocessing.active_children()
    for process in processes:
        process.kill()
    return [process.pid or 0 for process in processes]


async def dies(engine: Engine) -> None:
    """What any request comes to in an engine that dies of it."""
    kill_engine()
    async with asyncio.timeout(60):
        while engine.alive:
            await asyncio.sleep(0.01)
    raise EngineDied("the engine died while it worked on this")


async def test_an_engine_that_is_killed_again_while_it_starts_comes_back_in_the_end(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    async with Broker.connect(settings) as broker, working(settings, engine, embedder) as worker:
        ids = [await submit(broker, LONG, seed) for seed in range(4)]
        while worker.running < len(ids):
            await asyncio.sleep(0.005)
        killed = kill_engine()
        async with asyncio.timeout(120):
            while not {p.pid for p in multiprocessing.active_children()} - {*killed}:
                await asyncio.sleep(0.01)
        kill_engine()  # the next one, which has not come up yet
        for job_id in ids:
            assert (await ended(broker, job_id)).status is JobStatus.succeeded


async def test_an_engine_that_dies_while_its_adapter_is_given_back_comes_back_with_it(
    settings: Settings,
    engine: Engine,
    embedder: Embedder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = make_adapter(engine.model, tmp_path / "adapter", seed=1)
    published = WeightStore(str(tmp_path / "store")).publish(adapter, 5, "lora")
    add, deaths = engine.add_lora, 0

    async def die_once(lora: Any) -> None:
        nonlocal deaths
        if not deaths:
            deaths += 1
            kill_engine()
        await add(lora)

    async with Broker.connect(settings) as broker, working(settings, engine, embedder) as worker:
        await broker.weights.announce(published)
        assert await broker.weights.wait_adopted(5, 60)
        ids = [await submit(broker, LONG, seed) for seed in range(3)]
        while worker.running < len(ids):
            await asyncio.sleep(0.005)
        monkeypatch.setattr(engine, "add_lora", die_once)
        kill_engine()
        jobs = [await ended(broker, job_id) for job_id in ids]
        assert worker.versions.current == 5
    assert deaths == 1
    assert {job.status for job in jobs} == {JobStatus.succeeded}
    assert {job.result.pairs[0].rejected_version for job in jobs} == {5}
    await engine.remove_lora(5)


async def run_until_it_gives_up(broker: Broker, engine: Engine, embedder: Embedder) -> str:
    with pytest.raises(EngineKeepsDying) as raised:
        await Worker(broker, engine, embedder, WorkerSettings()).run()
    return str(raised.value)


async def test_a_worker_stops_when_engines_die_of_their_first_request(
    settings: Settings, engine: Engine, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_keeper, "MAX_DEATHS", 3)
    generate = engine.generate
    async with Broker.connect(settings) as broker:
        ids = [await submit(broker, bdhs(), seed) for seed in range(3)]
        with monkeypatch.context() as patch:
            patch.setattr(engine, "generate", lambda *_, **__: dies(engine))
            with pytest.raises(EngineKeepsDying, match=r"3 engines .* SIGKILL.*No job was taken"):
                await start_engine(engine, 60)
            await engine.restart()
            reason = await run_until_it_gives_up(broker, engine, embedder)
        assert "3 engines in a row died" in reason
        assert "its process ended with SIGKILL" in reason
        states = [await broker.jobs.get(job_id) for job_id in ids]
        assert all(job is not None and not job.ended for job in states)
        assert engine.generate == generate
        await engine.restart()
        async with working(settings, engine, embedder):  # another machine, say
            for job_id in ids:
                assert (await ended(broker, job_id)).status is JobStatus.succeeded


async def test_jobs_are_spared_when_engines_die_of_all_of_them(
    settings: Settings, engine: Engine, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial passes, and each job ends the engine: the first one is taken for the reason, as a
    single bad job would be; after that the engine is."""
    monkeypatch.setattr(engine_keeper, "MAX_DEATHS", 4)

    def dying_of_jobs(generate: Callable[..., Any]) -> Callable[..., Any]:
        def call(prompt: Any, params: Any, *more: Any, **options: Any) -> Any:
            if params.max_tokens == 7:
                return dies(engine)
            return generate(prompt, params, *more, **options)

        return call

    def make(_: str) -> SampleRequest:
        return SampleRequest(prompt="Say.", max_tokens=7)

    async with Broker.connect(settings) as broker:
        first, second = await submit(broker, make), await submit(broker, make)
        with monkeypatch.context() as patch:
            patch.setattr(engine, "generate", dying_of_jobs(engine.generate))
            with pytest.raises(EngineKeepsDying, match="4 engines in a row died"):
                await Worker(broker, engine, embedder, WorkerSettings(slots=1)).run()
        dead, spared = await broker.jobs.get(first), await broker.jobs.get(second)
        assert dead is not None
        assert dead.status is JobStatus.dead
        assert spared is not None
        assert (spared.status, spared.history) == (JobStatus.queued, [])
        await engine.restart()
        async with working(settings, engine, embedder):
            assert (await ended(broker, second)).status is JobStatus.succeeded
