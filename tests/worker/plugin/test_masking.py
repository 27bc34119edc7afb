"""The heart of it: leaving image tokens out in vLLM equals hiding them from attention.

The oracle is transformers' `generate` with zeros in the attention mask at the hidden image tokens:
greedy, float32, tokens identical and log-probabilities within 1e-4.
"""

import asyncio

import numpy as np
import pytest
import torch

from service.schemas import BdhsRequest, user_turn
from tests.worker.oracle import TOLERANCE, Oracle, generate, random_image
from worker.bdhs.corruption import ImageCorruption
from worker.engine import Engine, RequestRefused
from worker.engine_policy import EnginePolicy


@pytest.fixture(scope="module")
def oracle(engine: Engine) -> Oracle:
    return Oracle(engine.model)


def masks(image_tokens: int) -> list[list[int] | None]:
    """Several sizes: none hidden, none kept, the ends, one token, every other, a random few."""
    rng = np.random.default_rng(0)
    some = sorted(rng.choice(image_tokens, 5, replace=False).tolist())
    return [None, [], [0], [image_tokens - 1], list(range(0, image_tokens, 2)), some]


async def test_a_masked_request_equals_attention_masking(engine: Engine, oracle: Oracle) -> None:
    """All masks of all pictures are in the engine together."""
    text = "Describe the image."
    pictures = [random_image(80, 150, 1), random_image(56, 56, 2), random_image(200, 40, 3)]
    cases = [(p, kept) for p in pictures for kept in masks(engine.image_tokens(p))]
    answers = await asyncio.gather(
        *(
            generate(engine, text, p, None if kept is None else ImageCorruption(kept))
            for p, kept in cases
        )
    )
    prompt = engine.inputs.renderer.prompt([user_turn(text, images=1)])
    rendered = engine.inputs.renderer.tokenizer.decode(prompt.token_ids)
    seen: set[tuple[int, ...]] = set()
    for (image, kept), (answer, prompt_length) in zip(cases, answers, strict=True):
        all_kept = list(range(engine.image_tokens(image)))
        shown = all_kept if kept is None else kept
        truth = oracle.generate(rendered, image, ImageCorruption(shown))
        assert answer.token_ids == truth.token_ids, f"{image.image.size}, kept {kept}"
        np.testing.assert_allclose(answer.logprobs, truth.logprobs, atol=TOLERANCE, rtol=0)
        assert prompt_length == len(prompt.token_ids) - 1 + len(shown)
        seen.add(tuple(answer.token_ids))
    assert len(seen) > len(pictures), "the mask made no difference: the test would prove nothing"


async def test_noise_equals_noise_on_the_processed_pixels(engine: Engine, oracle: Oracle) -> None:
    """Alone and with a mask; several noises of one picture in one batch."""
    image = random_image(80, 150, 1)
    everything = list(range(engine.image_tokens(image)))
    views = [
        ImageCorruption(everything, noise_steps=500, noise_seed=1),
        ImageCorruption(everything, noise_steps=500, noise_seed=2),
        ImageCorruption(everything, noise_steps=100, noise_seed=1),
        ImageCorruption(everything[::2], noise_steps=500, noise_seed=1),
    ]
    text = "Describe the image."
    answers = await asyncio.gather(
        *(generate(engine, text, image, corruption) for corruption in views)
    )
    prompt = engine.inputs.renderer.prompt([user_turn(text, images=1)])
    rendered = engine.inputs.renderer.tokenizer.decode(prompt.token_ids)
    for corruption, (answer, _) in zip(views, answers, strict=True):
        truth = oracle.generate(rendered, image, corruption)
        assert answer.token_ids == truth.token_ids
        np.testing.assert_allclose(answer.logprobs, truth.logprobs, atol=TOLERANCE, rtol=0)
    assert len({tuple(answer.logprobs) for answer, _ in answers}) == len(views)


async def test_token_guidance_equals_teacher_forcing(engine: Engine, oracle: Oracle) -> None:
    """Every token is the likeliest one after the reference's true ones, from one prefill."""
    image = random_image(80, 150, 1)
    everything = list(range(engine.image_tokens(image)))
    request = BdhsRequest(
        prompt="Describe the image.",
        images=[image.ref],
        reference="Yes, there is a red circle in the top left.",
        corruption="noise",
        guidance="token",
    )
    policy = EnginePolicy(engine, request, image)
    for seed in (1, 2):
        corruption = ImageCorruption(everything, noise_steps=500, noise_seed=seed)
        written = await policy.predict(request.reference, corruption=corruption)
        prompt = engine.inputs.renderer.prompt(request.conversation)
        ids, before = prompt.token_ids_with(request.reference)
        inputs = oracle.inputs(engine.inputs.renderer.tokenizer.decode(ids), image, corruption)
        with torch.inference_mode():
            logits = oracle.model(**inputs).logits[0]
        before += len(everything) - 1
        assert list(written.token_ids) == logits[before - 1 : -1].argmax(-1).tolist()
        assert len(written.token_ids) == len(prompt.token_ids_with(request.reference)[0]) - (
            before - len(everything) + 1
        )


async def test_the_views_cover_every_image_token_once(engine: Engine) -> None:
    for size in [(80, 150), (56, 56), (200, 40), (31, 97), (640, 480)]:
        image = random_image(*size, seed=4)
        views = engine.image_views(image)
        counted = sum(v.rows * (v.columns + v.newline) for v in views)
        assert counted == engine.image_tokens(image)
        assert [v.start for v in views] == sorted(v.start for v in views)
        assert views[0].start == 0


@pytest.mark.parametrize("kept", [[-1], [10_000], [0, 10_000]])
async def test_a_mask_outside_the_image_is_refused_and_the_engine_lives(
    engine: Engine, kept: list[int]
) -> None:
    image = random_image(56, 56, 5)
    with pytest.raises(RequestRefused, match="outside"):
        await generate(engine, "Describe the image.", image, ImageCorruption(kept))
    assert engine.alive
    await generate(engine, "Describe the image.", image, ImageCorruption([0]))
