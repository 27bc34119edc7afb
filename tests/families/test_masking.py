"""The heart of it: leaving image tokens out in vLLM equals hiding them from attention.

The oracle is transformers under an attention mask with zeros at the hidden image tokens: greedy,
float32, tokens identical and log-probabilities within 1e-4.
"""

import asyncio
from itertools import product

import numpy as np
import pytest

from service.schemas import BdhsRequest, Message, assistant_turn, user_turn
from tests.families.oracle import Shown
from tests.families.pictures import PICTURES, picture
from tests.families.served import Served, decoded_image
from tests.worker.vision_tower import (
    images_computed,
    row_budget,
    watch_rows,
    watched_rows,
    without_kept_positions,
)
from worker.bdhs.corruption import ImageCorruption
from worker.engine import RequestRefused
from worker.engine_policy import EnginePolicy

QUESTION = [user_turn("Describe the image, from the top left to the bottom right.", images=1)]


def masks(image_tokens: int) -> list[list[int] | None]:
    """None hidden, none kept, the ends, every other, a random few."""
    rng = np.random.default_rng(0)
    some = sorted(rng.choice(image_tokens, min(5, image_tokens), replace=False).tolist())
    return [None, [], [0], [image_tokens - 1], list(range(0, image_tokens, 2)), some]


def cases(served: Served) -> list[Shown]:
    """All masks of all pictures."""
    return [
        Shown(image=image, kept=kept)
        for image in PICTURES
        for kept in masks(served.oracle.image_tokens(image))
    ]


async def test_a_masked_request_equals_attention_masking(served: Served) -> None:
    """All masks of all pictures are in the engine together, with an adapter and without; then
    again, when it has most of their keys and values."""
    requests = list(product(cases(served), (None, served.adapter)))
    for again in (False, True):
        outputs = await asyncio.gather(
            *(served.write(QUESTION, [shown], lora) for shown, lora in requests)
        )
        if again:
            assert sum(output.num_cached_tokens or 0 for output in outputs) > 0
        for (shown, lora), output in zip(requests, outputs, strict=True):
            served.assert_equal(output, QUESTION, [shown], lora)
    different = {tuple(output.outputs[0].token_ids) for output in outputs}
    assert len(different) > 2 * len(PICTURES), "masks made no difference: this would prove nothing"


async def test_without_its_positions_an_mrope_model_writes_something_else(served: Served) -> None:
    """The negative control of the test above."""
    if not served.family.mrope:
        pytest.skip("positions are a running count")
    image = picture(150, 80, 11)
    shown = Shown(image=image, kept=range(1, served.oracle.image_tokens(image), 2))
    async with without_kept_positions(served.engine):
        output = await served.write(QUESTION, [shown])
        with pytest.raises(AssertionError):
            served.assert_equal(output, QUESTION, [shown])
    again = await served.write(QUESTION, [Shown(image=picture(150, 80, 12), kept=shown.kept)])
    served.assert_equal(again, QUESTION, [Shown(image=picture(150, 80, 12), kept=shown.kept)])


TURNS: dict[str, list[Message]] = {
    "two in one turn": [user_turn("Compare them.", images=2)],
    "in different turns": [
        user_turn("What is in the image?", images=1),
        assistant_turn("A cat on a mat."),
        user_turn("And in this one?", images=1),
    ],
}


@pytest.mark.parametrize("turns", TURNS)
async def test_masks_over_two_images(served: Served, turns: str) -> None:
    """Each under its own; in one prompt the same picture twice, under two masks."""
    first, second = PICTURES[0], PICTURES[2]
    some, others = ([0, 2, 3], [1]), ([], [0, 1])
    pairs = [
        [Shown(image=first), Shown(image=second)],
        *([Shown(image=first, kept=a), Shown(image=second, kept=b)] for a, b in (some, others)),
        [Shown(image=second, kept=[]), Shown(image=first, kept=[])],
        [Shown(image=first, kept=[0, 2]), Shown(image=second, kept=[])],
        [Shown(image=first, kept=[0]), Shown(image=first, kept=[1, 2])],
        [Shown(image=first, kept=[1, 2]), Shown(image=first)],
    ]
    conversation = TURNS[turns]
    outputs = await asyncio.gather(*(served.write(conversation, pair) for pair in pairs))
    for pair, output in zip(pairs, outputs, strict=True):
        served.assert_equal(output, conversation, pair)


async def test_noise_equals_noise_on_the_processed_pixels(served: Served) -> None:
    """Alone, with a mask, and on one of two images; several noises of one picture in one batch."""
    [image, other, _] = PICTURES
    noisy = [
        [Shown(image=image, noise_steps=500, noise_seed=1)],
        [Shown(image=image, noise_steps=500, noise_seed=2)],
        [Shown(image=image, noise_steps=100, noise_seed=1)],
        [Shown(image=image, noise_steps=500, noise_seed=1, kept=[0, 2])],
        [Shown(image=other, kept=[1]), Shown(image=image, noise_steps=500, noise_seed=1)],
    ]
    prompts = [[user_turn("Describe it.", images=len(images))] for images in noisy]
    outputs = await asyncio.gather(*map(served.write, prompts, noisy))
    for prompt, images, output in zip(prompts, noisy, outputs, strict=True):
        served.assert_equal(output, prompt, images)


async def test_token_guidance_equals_teacher_forcing(served: Served) -> None:
    """Every token is the likeliest one after the reference's true ones, from one prefill."""
    image = decoded_image(PICTURES[0])
    request = BdhsRequest(
        messages=QUESTION,
        images=[image.ref],
        reference="Yes, there is a red circle in the top left.",
        corruption="noise",
        guidance="token",
    )
    policy = await EnginePolicy.create(served.engine, request, [image])
    every = range(policy.images[0].tokens)
    text = served.oracle.renderer.render(QUESTION, open_turn=True)
    for seed in (1, 2):
        corruption = ImageCorruption(every, noise_steps=500, noise_seed=seed)
        written = await policy.predict(request.reference, corruptions=[corruption])
        ids, before = policy.prompt.token_ids_with(request.reference)
        shown = Shown(image=image.image, noise_steps=500, noise_seed=seed)
        logits = served.oracle.logits(text, [shown], ids[before:])
        assert list(written.token_ids) == logits.argmax(-1).tolist()


async def test_the_views_cover_every_image_token_once(served: Served) -> None:
    for size in [(80, 150), (56, 56), (200, 40), (31, 97), (640, 480)]:
        placeholder = await served.engine.placeholder(decoded_image(picture(*size, 4)))
        views = placeholder.views
        assert bool(views) == served.family.views
        ends = [view.start + view.rows * (view.columns + view.newline) for view in views]
        assert [view.start for view in views[1:]] == ends[:-1]
        assert ends[-1:] in ([], [placeholder.image_tokens])


@pytest.mark.parametrize("kept", [[-1], [10_000], [0, 10_000]])
async def test_a_mask_outside_the_image_is_refused_and_the_engine_lives(
    served: Served, kept: list[int]
) -> None:
    with pytest.raises(RequestRefused, match="outside"):
        await served.write(QUESTION, [Shown(image=PICTURES[1], kept=kept)])
    shown = Shown(image=PICTURES[1], kept=[0])
    served.assert_equal(await served.write(QUESTION, [shown]), QUESTION, [shown])


async def test_the_tower_runs_once_an_image_and_never_on_more_rows_than_the_budget(
    served: Served,
) -> None:
    before = await images_computed(served.engine)
    await watch_rows(served.engine)
    images = [picture(90 + 7 * number, 120, 20 + number) for number in range(8)]
    shown = [
        Shown(image=image, kept=kept) for image in images for kept in ([0], [1, 2], [0, 3], None)
    ]
    await asyncio.gather(*(served.write(QUESTION, [one]) for one in shown))
    assert await images_computed(served.engine) == before + len(images)
    largest = max(served.oracle.image_tokens(image) for image in images)
    rows = await watched_rows(served.engine)
    assert sum(rows) == sum(served.oracle.image_tokens(image) for image in images)
    assert max(rows) <= max(await row_budget(served.engine), largest)
