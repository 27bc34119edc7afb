"""The heart of it: leaving image tokens out in vLLM equals hiding them from attention.

The oracle is transformers' `generate` with zeros in the attention mask at the hidden image tokens:
greedy, float32, tokens identical and log-probabilities within 1e-4.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from vllm import SamplingParams

from service.schemas import user_turn
from worker.engine import Engine, Picture, RequestRefused
from worker.prompts import Prompt

NEW_TOKENS = 16
TOLERANCE = 1e-4


@dataclass
class Written:
    token_ids: list[int]
    logprobs: list[float]


class Oracle:
    """The same checkpoint in transformers."""

    def __init__(self, folder: str):
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.processor = AutoProcessor.from_pretrained(folder)

    def generate(self, text: str, picture: Picture, kept: list[int]) -> Written:
        inputs = self.processor(images=picture.image, text=text, return_tensors="pt")
        places = (inputs["input_ids"][0] == self.model.config.image_token_index).nonzero()[:, 0]
        hidden = sorted(set(range(len(places))) - set(kept))
        inputs["attention_mask"][0, places[hidden]] = 0
        with torch.inference_mode():
            out = self.model.generate(
                **inputs,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
        ids = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        scores = [
            torch.log_softmax(step[0], -1)[i].item()
            for step, i in zip(out.logits, ids, strict=True)
        ]
        return Written(ids, scores)


@pytest.fixture(scope="module")
def oracle(engine: Engine) -> Oracle:
    return Oracle(engine.model)


def picture(width: int, height: int, seed: int) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Picture(f"sha256:{seed:064x}", Image.fromarray(pixels))


async def generate(
    engine: Engine, text: str, image: Picture, kept: list[int] | None
) -> tuple[Written, int]:
    prompt = Prompt(engine.tokenizer, [user_turn(text, images=1)], engine.image_token_id)
    params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, logprobs=0)
    if kept == []:
        outputs = engine.generate(prompt.without_images(prompt.token_ids), params)
    else:
        outputs = engine.generate(prompt.token_ids, params, [image], kept=kept)
    async with aclosing(outputs):
        async for output in outputs:
            last = output
    written = last.outputs[0]
    scores = [lp[i].logprob for lp, i in zip(written.logprobs, written.token_ids, strict=True)]
    return Written(list(written.token_ids), scores), len(last.prompt_token_ids)


def masks(image_tokens: int) -> list[list[int] | None]:
    """Several sizes: none hidden, none kept, the ends, one token, every other, a random few."""
    rng = np.random.default_rng(0)
    some = sorted(rng.choice(image_tokens, 5, replace=False).tolist())
    return [None, [], [0], [image_tokens - 1], list(range(0, image_tokens, 2)), some]


async def test_a_masked_request_equals_attention_masking(engine: Engine, oracle: Oracle) -> None:
    """All masks of all pictures are in the engine together."""
    text = "Describe the image."
    pictures = [picture(80, 150, 1), picture(56, 56, 2), picture(200, 40, 3)]
    cases = [(p, kept) for p in pictures for kept in masks(engine.image_tokens(p))]
    answers = await asyncio.gather(*(generate(engine, text, p, kept) for p, kept in cases))
    prompt = Prompt(engine.tokenizer, [user_turn(text, images=1)], engine.image_token_id)
    rendered = engine.tokenizer.decode(prompt.token_ids)
    seen: set[tuple[int, ...]] = set()
    for (image, kept), (answer, prompt_length) in zip(cases, answers, strict=True):
        all_kept = list(range(engine.image_tokens(image)))
        shown = all_kept if kept is None else kept
        truth = oracle.generate(rendered, image, shown)
        assert answer.token_ids == truth.token_ids, f"{image.image.size}, kept {kept}"
        np.testing.assert_allclose(answer.logprobs, truth.logprobs, atol=TOLERANCE, rtol=0)
        assert prompt_length == len(prompt.token_ids) - 1 + len(shown)
        seen.add(tuple(answer.token_ids))
    assert len(seen) > len(pictures), "the mask made no difference: the test would prove nothing"


async def test_the_views_cover_every_image_token_once(engine: Engine) -> None:
    for size in [(80, 150), (56, 56), (200, 40), (31, 97), (640, 480)]:
        image = picture(*size, seed=4)
        views = engine.image_views(image)
        counted = sum(v.rows * (v.columns + v.newline) for v in views)
        assert counted == engine.image_tokens(image)
        assert [v.start for v in views] == sorted(v.start for v in views)
        assert views[0].start == 0


@pytest.mark.parametrize("kept", [[-1], [10_000], [0, 10_000]])
async def test_a_mask_outside_the_image_is_refused_and_the_engine_lives(
    engine: Engine, kept: list[int]
) -> None:
    image = picture(56, 56, 5)
    with pytest.raises(RequestRefused, match="outside"):
        await generate(engine, "Describe the image.", image, kept)
    assert engine.alive
    await generate(engine, "Describe the image.", image, [0])
