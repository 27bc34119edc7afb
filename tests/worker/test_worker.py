"""A worker from queue to pair, on a real engine and a real server."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from service.broker import Broker, ModelConflict
from service.commands import replay
from service.schemas import (
    BdhsResult,
    BdhsTrace,
    Job,
    JobRequest,
    JobStatus,
    Pair,
    SampleRequest,
    SampleResult,
    WeightSpan,
)
from service.settings import Settings
from service.weight_store import WeightStore
from tests.servers import Server
from tests.service.http import served
from tests.waiting import until
from tests.worker.adapters import make_adapter
from tests.worker.full_checkpoints import make_full
from tests.worker.jobs import REFERENCE, bdhs, ended, submit, working
from tests.worker.test_pairs import assert_tokens_of_bdhs
from worker.embedder import Embedder
from worker.engine import Engine
from worker.main import Worker
from worker.settings import WorkerSettings


@pytest.fixture
def settings(server: Server) -> Settings:
    return Settings(redis_url=server.url, lease_s=3, retry_base_s=0)


async def test_a_bdhs_job_becomes_one_pair_with_its_trace(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    async with Broker.connect(settings) as broker, working(settings, engine, embedder):
        job_id = await submit(broker, bdhs(run="r", rho=0.5, trace="full", seed=5))
        job = await ended(broker, job_id)
        page = await broker.runs.pairs("r", None, 10)
    assert job.status is JobStatus.succeeded
    assert isinstance(job.result, BdhsResult)
    pair, trace = job.result.pairs[0], job.result.trace
    assert page.pairs == [pair]
    assert pair.pair_id == job_id
    assert pair.chosen[0].parts[0].text == REFERENCE
    assert (pair.chosen_version, pair.rejected_version) == (None, 0)
    assert pair.seed == 5
    assert trace is not None
    last = trace.iterations[-1]
    assert pair.rejected[0].parts[0].text == last.text
    assert pair.similarity == pytest.approx(last.similarity)
    assert_tokens_of_bdhs(engine, pair, last)
    for sentence in last.sentences:
        ids = sentence.completion_token_ids
        assert ids is not None
        kept = engine.inputs.renderer.tokenizer.decode(ids[: len(ids) - sentence.thrown_away])
        if sentence.finish_reason == "sentence":
            assert kept.strip().startswith(sentence.completion.strip())
        else:
            assert not sentence.thrown_away
        assert sentence.prompt_token_ids is not None
        assert sentence.prompt_token_ids.count(engine.inputs.renderer.image_token_id) == len(
            last.images[0].kept
        )
    given = [s for s in trace.iterations[0].sentences if s.prefix]
    for sentence in given:
        prompt = engine.inputs.renderer.tokenizer.decode(sentence.prompt_token_ids)
        assert prompt.endswith(sentence.prefix)


async def test_it_says_how_it_makes_inputs(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    async with Broker.connect(settings) as broker, working(settings, engine, embedder) as worker:
        await until(broker.workers.all)
        with served(settings) as url:
            health = await asyncio.to_thread(httpx.get, f"{url}/health/ready")
    [said] = health.json()["workers"]
    assert (said["id"], said["model"]) == (worker.id, "toy")
    assert said["input_digest"] == engine.inputs.digest.model_dump()


async def test_the_second_to_register_with_another_model_takes_no_job(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    async with Broker.connect(settings) as broker, working(settings, engine, embedder) as first:
        await until(broker.workers.all)
        other = Worker(broker, engine, embedder, WorkerSettings(model="another"))
        with pytest.raises(ModelConflict, match=f"is for another, and worker {first.id}"):
            await other.run()
        job = await ended(broker, await submit(broker, bdhs()))
        assert [worker.id for worker in await broker.workers.all()] == [first.id]
    assert job.worker == first.id


async def test_the_same_seed_makes_the_same_pair(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    async with Broker.connect(settings) as broker, working(settings, engine, embedder):
        ids = [await submit(broker, bdhs(seed=seed, rho=0.5)) for seed in (8, 8, 9)]
        jobs = [await ended(broker, job_id) for job_id in ids]
    texts = [job.result.pairs[0].rejected[0].parts[0].text for job in jobs]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


async def test_nothing_visible_and_everything_visible(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    async with Broker.connect(settings) as broker, working(settings, engine, embedder):
        for rho, kept in ((1.0, 0), (0.0, None)):
            job = await ended(broker, await submit(broker, bdhs(rho=rho, trace="full")))
            trace = job.result.trace
            wanted = trace.images[0].tokens if kept is None else kept
            for iteration in trace.iterations:
                assert [len(image.kept) for image in iteration.images] == [wanted]
                for sentence in iteration.sentences:
                    ids = sentence.prompt_token_ids
                    assert ids.count(engine.inputs.renderer.image_token_id) == wanted


async def test_sampling_with_and_without_an_image(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    async with Broker.connect(settings) as broker, working(settings, engine, embedder):
        with_image = await submit(
            broker,
            lambda ref: SampleRequest(
                prompt="Describe.", images=[ref], n=3, max_tokens=8, logprobs=2, seed=1
            ),
        )
        without = await submit(broker, lambda ref: SampleRequest(prompt="Hello.", max_tokens=4))
        first, second = await ended(broker, with_image), await ended(broker, without)
    assert isinstance(first.result, SampleResult)
    assert isinstance(second.result, SampleResult)
    assert len(first.result.responses) == 3
    assert len({r.text for r in first.result.responses}) > 1
    for response in first.result.responses:
        assert response.logprobs is not None
        assert [step[0].token_id for step in response.logprobs] == response.token_ids
        assert all(len(step) in (2, 3) for step in response.logprobs)
        length = len(response.token_ids)
        assert response.weight_versions == [WeightSpan(start=0, end=length, version=0)]
    assert len(second.result.responses) == 1


@pytest.mark.parametrize(
    ("request_for", "code"),
    [
        (bdhs(prompt="word " * 600), "prompt_too_long"),
        (bdhs(prompt="an <image> too many"), "bad_conversation"),
        (bdhs(reference="It is an <image> of a cat. A dog."), "bad_conversation"),
        (bdhs(reference="A word. " * 9_000), "prompt_too_long"),
        (lambda ref: SampleRequest(prompt="x " * 900), "prompt_too_long"),
    ],
)
async def test_what_only_the_model_can_refuse_fails_the_job_and_the_worker_goes_on(
    settings: Settings,
    engine: Engine,
    embedder: Embedder,
    request_for: Callable[[str], JobRequest],
    code: str,
) -> None:
    async with Broker.connect(settings) as broker, working(settings, engine, embedder):
        job = await ended(broker, await submit(broker, request_for))
        assert job.status is JobStatus.failed
        assert job.attempt == 1
        assert job.error is not None
        assert job.error.code == code
        assert (await ended(broker, await submit(broker, bdhs()))).status is JobStatus.succeeded


async def test_a_job_whose_image_is_gone_fails_and_says_so(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    async with Broker.connect(settings) as broker:
        job_id = await submit(broker, bdhs())
        [image] = await broker.connection.redis.keys("*:image:*")
        await broker.connection.redis.delete(image)
        async with working(settings, engine, embedder):
            job = await ended(broker, job_id)
    assert job.status is JobStatus.failed
    assert job.error is not None
    assert job.error.code == "image_gone"


async def test_a_worker_that_stops_hands_running_jobs_back(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    async with Broker.connect(settings) as broker:
        async with working(settings, engine, embedder, drain_s=0) as worker:
            ids = [await submit(broker, bdhs(max_tokens=300, rho=0.0)) for _ in range(8)]
            while not worker.running:
                await asyncio.sleep(0.005)
        states = [(await broker.jobs.get(job_id)).status for job_id in ids]
        assert JobStatus.running not in states
        assert JobStatus.queued in states
        async with working(settings, engine, embedder):
            for job_id in ids:
                assert (await ended(broker, job_id)).status is JobStatus.succeeded


async def test_a_cancelled_worker_leaves_nothing_running(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    """Its loops claimed the next test's jobs once."""
    before = asyncio.all_tasks()
    async with Broker.connect(settings) as broker:
        worker = Worker(broker, engine, embedder, WorkerSettings())
        run = asyncio.create_task(worker.run())
        long = await submit(broker, lambda ref: SampleRequest(prompt="Say.", max_tokens=900))
        while not worker.running:
            await asyncio.sleep(0.005)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert not worker.running
        job = await broker.jobs.get(long)
        assert job is not None
        assert not job.ended
    assert asyncio.all_tasks() == before


async def test_cancelling_a_running_job_aborts_it(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    async with Broker.connect(settings) as broker, working(settings, engine, embedder) as worker:
        job_id = await submit(broker, bdhs(max_tokens=400, rho=0.0, max_iterations=20))
        while not worker.running:
            await asyncio.sleep(0.005)
        await broker.jobs.cancel(job_id)
        async with asyncio.timeout(10):
            while worker.running:
                await asyncio.sleep(0.005)
        assert (await ended(broker, job_id)).status is JobStatus.cancelled


async def test_a_running_job_ends_at_its_deadline(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    # Every iteration is found too similar: it would take far longer.
    long = bdhs(max_tokens=400, rho=0.0, max_iterations=20, similarity_threshold=-1, deadline_s=0.5)
    async with Broker.connect(settings) as broker, working(settings, engine, embedder) as worker:
        job_id = await submit(broker, long)
        while not worker.running:
            await asyncio.sleep(0.005)
        job = await ended(broker, job_id)
        assert (job.status, job.attempt) == (JobStatus.failed, 1)
        assert job.error
        assert job.error.code == "deadline_exceeded"
        async with asyncio.timeout(10):
            while worker.running:
                await asyncio.sleep(0.005)
        after = await ended(broker, await submit(broker, bdhs()))
    assert after.status is JobStatus.succeeded, "and the worker goes on"


async def test_a_worker_that_comes_late_begins_with_the_newest_weights(
    settings: Settings, engine: Engine, embedder: Embedder, tmp_path: Path
) -> None:
    adapter = make_adapter(engine.model, tmp_path / "adapter", seed=1)
    published = WeightStore(str(tmp_path / "store")).publish(adapter, 5, "lora")
    async with Broker.connect(settings) as broker:
        await broker.weights.announce(published)
        job_id = await submit(broker, bdhs())  # waits for the worker
        async with working(settings, engine, embedder):
            job = await ended(broker, job_id)
        await engine.remove_lora(5)
    assert job.result.pairs[0].rejected_version == 5


async def test_a_job_under_way_says_which_full_weights_wrote_what(
    settings: Settings, engine: Engine, embedder: Embedder, tmp_path: Path
) -> None:
    made = make_full(engine.model, tmp_path / "made", seed=1, parts=("language_model",))
    published = WeightStore(str(tmp_path / "store")).publish(made, 5, "full")
    make = bdhs(max_tokens=200, rho=0.0, max_iterations=3, similarity_threshold=-1, trace="full")
    async with Broker.connect(settings) as broker, working(settings, engine, embedder) as worker:
        ids = [await submit(broker, make) for _ in range(6)]
        while worker.running < len(ids):
            await asyncio.sleep(0.005)
        await broker.weights.announce(published)
        jobs = [await ended(broker, job_id) for job_id in ids]
        assert worker.versions.current == 5
        later = await ended(broker, await submit(broker, bdhs()))
        state = await broker.weights.state()
    await engine.load_weights(Path(engine.model), 0)
    assert (state.refused, [w.weight_version for w in state.workers]) == ([], [5])
    assert later.result.pairs[0].rejected_version == 5
    seen: set[int] = set()
    for job in jobs:
        assert job.status is JobStatus.succeeded
        iterations = job.result.trace.iterations
        for sentence in (s for iteration in iterations for s in iteration.sentences):
            places = [0, *(span.end for span in sentence.weight_versions)]
            assert [span.start for span in sentence.weight_versions] == places[:-1]
            assert places[-1] == len(sentence.completion_token_ids)
            seen |= {span.version for span in sentence.weight_versions}
        last = [w for s in iterations[-1].sentences for w in s.weight_versions]
        assert job.result.pairs[0].rejected_version == min(span.version for span in last)
    assert seen == {0, 5}


async def test_full_weights_that_fail_in_the_engine_are_refused_once_and_jobs_go_on(
    settings: Settings,
    engine: Engine,
    embedder: Embedder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Nothing that passes the check is known to fail in the engine, so it has to look away.
    monkeypatch.setattr("worker.weights.versions.check_checkpoint", lambda *_: None)
    made = make_full(engine.model, tmp_path / "made", seed=1, parts=("projector",))
    tensors = load_file(made / "model.safetensors")
    tensors["language_model.model.norm.weight"] = torch.ones(3)
    save_file(tensors, made / "model.safetensors", {"format": "pt"})
    published = WeightStore(str(tmp_path / "store")).publish(made, 5, "full")
    async with Broker.connect(settings) as broker, working(settings, engine, embedder) as worker:
        ids = [await submit(broker, bdhs(max_tokens=200, rho=0.0)) for _ in range(3)]
        while worker.running < len(ids):
            await asyncio.sleep(0.005)
        await broker.weights.announce(published)
        jobs = [await ended(broker, job_id) for job_id in ids]
        jobs.append(await ended(broker, await submit(broker, bdhs())))
        state = await broker.weights.state()
        assert worker.versions.current == 0
    assert {job.status for job in jobs} == {JobStatus.succeeded}
    assert {job.result.pairs[0].rejected_version for job in jobs} == {0}
    [refusal] = state.refused
    assert (refusal.version, "the engine could not load it" in refusal.reason) == (5, True)


async def test_a_pair_is_made_again_on_the_weights_that_wrote_it(
    settings: Settings, engine: Engine, embedder: Embedder, tmp_path: Path
) -> None:
    """Each of three versions' pairs, while the newest serves; and not once its files are gone."""
    store = WeightStore(str(tmp_path / "store"))
    async with Broker.connect(settings) as broker:

        async def made_again(pair: Pair, trace: BdhsTrace) -> Job:
            again = replay.replay_request(pair, trace)
            return await ended(broker, (await broker.jobs.enqueue(again)).id)

        async with working(settings, engine, embedder) as worker:
            made: list[BdhsResult] = []
            for version in (0, 11, 12):
                if version:
                    adapter = make_adapter(engine.model, tmp_path / f"{version}", seed=version)
                    await broker.weights.announce(store.publish(adapter, version, "lora"))
                    while worker.versions.current != version:
                        await asyncio.sleep(0.01)
                job = await ended(broker, await submit(broker, bdhs(seed=6, rho=0.5)))
                made.append(job.result)
            texts = {result.pairs[0].rejected[0].parts[0].text for result in made}
            assert len(texts) == 3, "the versions write the same: the test would prove nothing"
            for result in made:
                job = await made_again(result.pairs[0], result.trace)
                assert job.result is not None, job.error
                assert job.result.pairs[0].rejected_version == result.pairs[0].rejected_version
                assert replay.differences(result.pairs[0], result.trace, job.result) == []
            adapter = make_adapter(engine.model, tmp_path / "13", seed=13)
            await broker.weights.announce(store.publish(adapter, 13, "lora"))
            while worker.versions.current != 13:
                await asyncio.sleep(0.01)
            store.keep_newest(1)
            gone = await made_again(made[1].pairs[0], made[1].trace)
            assert gone.status is JobStatus.failed
            assert gone.error.code == "version_gone"
            assert "version 11 is no longer stored" in gone.error.message
            assert (await ended(broker, await submit(broker, bdhs()))).status == "succeeded"
    for version in (11, 12, 13):
        await engine.remove_lora(version)
