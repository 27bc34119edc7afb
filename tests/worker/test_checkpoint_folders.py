"""Engines on folders as the hub has them: they start, and write what transformers writes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vllm import SamplingParams

from service.schemas import BdhsRequest, user_turn
from tests import hub_checkpoints
from tests.worker.oracle import NEW_TOKENS, TOLERANCE, Oracle, Written, random_image
from worker.bdhs.corruption import ImageCorruption
from worker.engine import DecodedImage, Engine
from worker.engine_policy import EnginePolicy
from worker.settings import WorkerSettings

TEXT = "Describe the image."
PICTURES = [random_image(80, 150, 1), random_image(56, 56, 2), random_image(300, 90, 3)]


@asynccontextmanager
async def started(folder: Path, **settings: Any) -> AsyncIterator[Engine]:
    given = {"enforce_eager": True, "gpu_memory_utilization": 0.1, "max_lora_rank": 16, **settings}
    engine = Engine(WorkerSettings(model=str(folder), **given))
    await engine.start()
    try:
        yield engine
    finally:
        engine.stop()


class HubOracle(Oracle):
    """Of a checkpoint whose tokenizer begins a text by itself, unless the template has."""

    def inputs(self, text: str, image: DecodedImage, corruption: ImageCorruption) -> Any:
        begun = text.startswith(self.processor.tokenizer.bos_token)
        inputs = self.processor(
            images=image.image, text=text, add_special_tokens=not begun, return_tensors="pt"
        )
        places = (inputs["input_ids"][0] == self.model.config.image_token_id).nonzero()[:, 0]
        hidden = sorted(set(range(len(places))) - set(corruption.kept))
        inputs["attention_mask"][0, places[hidden]] = 0
        return inputs


async def write(engine: Engine, image: DecodedImage, corruption: ImageCorruption) -> Written:
    """What the engine writes, greedily, as a policy of BDHS asks it."""
    request = BdhsRequest(
        prompt=TEXT,
        images=[image.ref],
        reference="A cat.",
        temperature=0,
        max_tokens=NEW_TOKENS,
    )
    policy = EnginePolicy(engine, request, image)
    params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logprobs=0)
    output = await policy._generate(policy._prompt.token_ids, corruption, params)
    written = output.outputs[0]
    assert written.logprobs is not None
    scores = [lp[i].logprob for lp, i in zip(written.logprobs, written.token_ids, strict=True)]
    return Written(list(written.token_ids), scores)


async def assert_equal_to_transformers(engine: Engine, masks: Callable[[int], list[list[int]]]):
    """Under all masks of all pictures, in one batch."""
    oracle = HubOracle(engine.model)
    rendered = engine.inputs.renderer.render([user_turn(TEXT, 1)], open_turn=True)
    cases = [
        (picture, ImageCorruption(kept))
        for picture in PICTURES
        for kept in masks(engine.image_tokens(picture))
    ]
    answers = await asyncio.gather(*(write(engine, *case) for case in cases))
    for (picture, corruption), answer in zip(cases, answers, strict=True):
        truth = oracle.generate(rendered, picture, corruption)
        assert answer.token_ids == truth.token_ids, f"{picture.image.size}, {corruption.kept}"
        np.testing.assert_allclose(answer.logprobs, truth.logprobs, atol=TOLERANCE, rtol=0)
    written = {tuple(answer.logprobs) for answer in answers}
    assert len(written) > len(PICTURES), "pictures and masks made no difference"


def whole(image_tokens: int) -> list[list[int]]:
    return [list(range(image_tokens))]


def several(image_tokens: int) -> list[list[int]]:
    """All kept, none, the ends, every third."""
    everything = list(range(image_tokens))
    return [everything, [], [0], [image_tokens - 1], everything[::3]]


async def test_an_older_folder_of_shards_in_half_precision(tmp_path: Path) -> None:
    """Published names, `chat_template.json`, the image's token by id, several ends."""
    folder = hub_checkpoints.llava_15(
        tmp_path,
        dtype=torch.float16,
        sharded=True,
        template="processor",
        image_token="image_token_id",
        end_token_ids=(2, 450, 263),
    )
    assert len(list(folder.glob("*.safetensors"))) > 1
    async with started(folder, dtype="float32") as engine:
        await assert_equal_to_transformers(engine, several)
        await assert_stops_at(engine, ends=[2, 450, 263], others=[100, 4000])


async def assert_stops_at(engine: Engine, ends: list[int], others: list[int]) -> None:
    async def write_only(token: int) -> list[int]:
        params = SamplingParams(temperature=0, max_tokens=3, logit_bias={token: 100.0})
        [written] = (await engine.generate([1, 450, 6635], params)).outputs
        assert written.finish_reason == ("stop" if token in ends else "length")
        return list(written.token_ids)

    for end in ends:
        assert await write_only(end) == [end]
    for other in others:
        assert await write_only(other) == [other] * 3


async def test_half_precision_is_served_as_it_is(tmp_path: Path) -> None:
    """The template is LLaVA-1.6-Mistral's own; the image's token is named by index."""
    folder = hub_checkpoints.llava_16_mistral(tmp_path, dtype=torch.bfloat16, sharded=True)
    async with started(folder) as engine:
        assert engine._running().model_config.dtype is torch.bfloat16
        [first, second, _] = PICTURES
        everything = [ImageCorruption(list(range(engine.image_tokens(p)))) for p in PICTURES]
        written = await write(engine, first, everything[0])
        assert written.token_ids
        assert written.logprobs != (await write(engine, second, everything[1])).logprobs


async def test_a_tower_of_pixtrals(tmp_path: Path) -> None:
    """k depends on the picture, and between its tokens stand others, which no mask hides."""
    folder = hub_checkpoints.llava_pixtral(tmp_path, template="processor")
    async with started(folder, dtype="float32") as engine:
        assert len({engine.image_tokens(picture) for picture in PICTURES}) == len(PICTURES)
        for picture in PICTURES:
            [view] = engine.image_views(picture)
            assert view.rows * view.columns == engine.image_tokens(picture)
        await assert_equal_to_transformers(engine, several)
