"""Full weights, hot: a worker takes them under running requests, or goes on with the old.

The oracle is transformers on the published files: greedy, float32.
"""

import asyncio
import multiprocessing
from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from vllm import SamplingParams
from vllm.outputs import CompletionOutput

from service.schemas import WeightSpan, user_turn
from service.weight_store import BadWeights, WeightStore
from tests.worker.full_checkpoints import make_full
from tests.worker.oracle import Written
from tests.worker.weights.full_weights import (
    EVERYTHING,
    IMAGE,
    TEXT,
    assert_same,
    publish,
    truth,
    with_tensor,
    write,
)
from trainer.settings import Part
from worker.engine import Engine, EngineDied, LoadFailed, weight_spans
from worker.weights.versions import WeightVersions


@pytest.mark.parametrize("parts", [("language_model",), ("projector",), ("tower",), EVERYTHING])
async def test_what_a_version_writes_equals_transformers_with_its_files(
    engine: Engine,
    versions: WeightVersions,
    store: WeightStore,
    tmp_path: Path,
    parts: tuple[Part, ...],
) -> None:
    before = await write(engine)  # the picture's embeddings are in every cache there is
    for number in (1, 2):
        await versions.wait_for_room()
        await versions.adopt(publish(engine, store, tmp_path, number, parts))
        assert versions.current == number
        answer = await write(engine)
        assert_same(answer, truth(engine, tmp_path / f"full-{number}"))
        assert answer.logprobs != before.logprobs, "the version changed nothing"
        before = answer


async def test_weights_as_transformers_writes_them_are_taken_as_well(
    engine: Engine, versions: WeightVersions, store: WeightStore, tmp_path: Path
) -> None:
    made = make_full(engine.model, tmp_path / "made", seed=3, parts=EVERYTHING)
    model = AutoModelForImageTextToText.from_pretrained(made, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "saved", max_shard_size="100KB")
    AutoProcessor.from_pretrained(made).save_pretrained(tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 1
    await versions.adopt(store.publish(tmp_path / "saved", 3, "full"))
    assert_same(await write(engine), truth(engine, tmp_path / "saved"))


# --- requests under way -------------------------------------------------------------------------

LONG = 200


class Request:
    """A request that runs while weights change, and what it has written so far."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self.tokens = 0
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> CompletionOutput:
        prompt = self._engine.inputs.renderer.prompt([user_turn(TEXT, images=1)])
        params = SamplingParams(temperature=0, max_tokens=LONG, logprobs=0, ignore_eos=True)

        def count(_: str) -> bool:
            self.tokens += 1
            return False

        output = await self._engine.generate(prompt.token_ids, params, [IMAGE], stop_check=count)
        return output.outputs[0]

    async def has_written(self, tokens: int) -> None:
        async with asyncio.timeout(60):
            while self.tokens < tokens:
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("parts", [("projector",), EVERYTHING])
async def test_requests_under_way_go_on_with_the_new_weights_and_say_where(
    engine: Engine,
    versions: WeightVersions,
    store: WeightStore,
    tmp_path: Path,
    parts: tuple[Part, ...],
) -> None:
    published = publish(engine, store, tmp_path, 5, parts)
    early = [Request(engine) for _ in range(6)]
    await early[-1].has_written(10)
    swap = asyncio.create_task(versions.adopt(published))
    while not swap.done():  # some come while it is under way
        early.append(Request(engine))
        await asyncio.sleep(0.01)
    await swap
    late = Request(engine)
    crossed = 0
    for written in [await request.task for request in [*early, late]]:
        spans = weight_spans(written, None)
        assert (spans[0].start, spans[-1].end) == (0, LONG)
        assert [s.end for s in spans[:-1]] == [s.start for s in spans[1:]]
        assert [s.version for s in spans] in ([0, 5], [5])
        split = spans[-1].start
        crossed += 0 < split < LONG
        ids, logprobs = list(written.token_ids), written.logprobs
        assert logprobs is not None
        scores = [lp[i].logprob for lp, i in zip(logprobs, ids, strict=True)]
        for span, folder in zip(
            spans, [Path(engine.model), tmp_path / "full-5"][-len(spans) :], strict=True
        ):
            # A few tokens suffice: those at the start of each span.
            some = min(8, span.end - span.start)
            part = slice(span.start, span.start + some)
            expected = truth(engine, folder, ids[: span.start], new_tokens=some)
            if len(expected.token_ids) == some:  # the oracle stops at the end of sequence
                assert_same(Written(ids[part], scores[part]), expected)
    assert crossed >= 6
    assert weight_spans(await late.task, None) == [WeightSpan(start=0, end=LONG, version=5)]


async def test_no_request_is_lost_while_weights_change_again_and_again(
    engine: Engine, versions: WeightVersions, store: WeightStore, tmp_path: Path
) -> None:
    published = [publish(engine, store, tmp_path, number) for number in range(11, 15)]
    sides = [Path(engine.model), *(tmp_path / f"full-{n}" for n in range(11, 15))]
    truths = {tuple(truth(engine, folder).token_ids) for folder in sides}
    stopping = False
    answers: list[tuple[list[int], list[int]]] = []

    async def ask() -> None:
        params = SamplingParams(temperature=0, max_tokens=16)
        prompt = engine.inputs.renderer.prompt([user_turn(TEXT, images=1)])
        while not stopping:
            [last] = (await engine.generate(prompt.token_ids, params, [IMAGE])).outputs
            assert last.finish_reason in ("stop", "length")
            versions = [span.version for span in weight_spans(last, None)]
            answers.append((list(last.token_ids), versions))

    async def more_answers() -> None:
        seen = len(answers)
        async with asyncio.timeout(60):
            while len(answers) < seen + 24 and not any(task.done() for task in asking):
                await asyncio.sleep(0.005)

    asking = [asyncio.create_task(ask()) for _ in range(8)]
    await more_answers()
    for version in published:
        await versions.adopt(version)
        await more_answers()
    stopping = True
    await asyncio.gather(*asking)
    assert {version for _, spans in answers for version in spans} == {0, 11, 12, 13, 14}
    assert all(tuple(ids) in truths for ids, spans in answers if len(spans) == 1)


# --- engines that die ---------------------------------------------------------------------------


async def test_an_engine_that_is_started_again_has_its_full_weights_again(
    engine: Engine, versions: WeightVersions, store: WeightStore, tmp_path: Path
) -> None:
    await versions.adopt(publish(engine, store, tmp_path, 41))
    before = await write(engine)
    for process in multiprocessing.active_children():
        process.kill()
    async with asyncio.timeout(30):
        while engine.alive:
            await asyncio.sleep(0.05)
    await engine.restart()
    await versions.reload()
    assert_same(await write(engine), before)
    assert weight_spans((await Request(engine).task), None)[0].version == 41


async def test_an_engine_that_dies_of_a_version_twice_is_spared_the_third_time(
    engine: Engine, versions: WeightVersions, store: WeightStore, tmp_path: Path
) -> None:
    published = publish(engine, store, tmp_path, 45)
    before = await write(engine)

    async def die_of_it() -> None:
        cores = [psutil.Process(p.pid) for p in multiprocessing.active_children()]
        for process in cores:
            process.suspend()
        adopting = asyncio.create_task(versions.adopt(published))
        async with asyncio.timeout(30):
            while not engine.loading:
                await asyncio.sleep(0.001)
        for process in cores:
            process.kill()
        await adopting

    with pytest.raises(EngineDied, match="died while it loaded weights"):
        await die_of_it()
    assert not engine.alive
    await engine.restart()
    assert_same(await write(engine), before)
    with pytest.raises(BadWeights, match="the engine died of it, 2 times"):
        await die_of_it()
    assert versions.current == 0


async def test_a_load_that_fails_half_way_brings_the_old_weights_back(
    engine: Engine,
    versions: WeightVersions,
    store: WeightStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await versions.adopt(publish(engine, store, tmp_path, 51))
    before = await write(engine)
    made = make_full(engine.model, tmp_path / "made", seed=52, parts=EVERYTHING)
    with_tensor("vision_tower.vision_model.encoder.layers.1.mlp.fc2.bias", torch.ones(3))(made)
    # Nothing that passes the check is known to fail in the engine, so it has to look away.
    monkeypatch.setattr("worker.weights.versions.check_checkpoint", lambda *_: None)
    running = Request(engine)
    await running.has_written(3)
    with pytest.raises(BadWeights, match="the engine could not load it"):
        await versions.adopt(store.publish(made, 52, "full"))
    assert versions.current == 51
    assert not engine.alive
    running.task.cancel()
    await engine.restart()
    assert_same(await write(engine), before)
    with pytest.raises(LoadFailed):
        await engine.load_weights(tmp_path / "nowhere", 53)
    assert not engine.alive
