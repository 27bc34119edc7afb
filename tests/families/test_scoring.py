"""How likely given answers are: what transformers says of them, under every view, and what the
engine itself said while it wrote them."""

from random import Random

import numpy as np

from service.schemas import LogprobsRequest, View
from tests.families.oracle import Shown
from tests.families.pictures import PICTURES
from tests.families.served import TOLERANCE, Served, decoded_image
from tests.families.test_masking import QUESTION, TURNS
from worker.bdhs.corruption import draw_corruption
from worker.scoring import score_responses

SEED = 3
VIEWS = [View(), View(rho=0.5), View(rho=1), View(noise_steps=500), View(rho=0.7, noise_steps=100)]
ANSWERS = ["A red circle.", "Yes. There are two small dogs on a mat, I think."]


def seen(served: Served, number: int, view: View) -> list[Shown]:
    """What a view draws of the first and the last picture."""
    rng = Random(f"{SEED}/{number}")
    shown: list[Shown] = []
    for image in (PICTURES[0], PICTURES[2]):
        tokens = served.oracle.image_tokens(image)
        drawn = draw_corruption(rng, tokens, rho=view.rho, noise_steps=view.noise_steps)
        shown.append(
            Shown(
                image=image,
                kept=None if len(drawn.kept) == tokens else drawn.kept,
                noise_steps=drawn.noise_steps,
                noise_seed=drawn.noise_seed or 0,
            )
        )
    return shown


async def test_scores_equal_transformers(served: Served) -> None:
    """Two images, in different turns; all answers under all views at once."""
    conversation = TURNS["in different turns"]
    images = [decoded_image(PICTURES[0]), decoded_image(PICTURES[2])]
    request = LogprobsRequest(
        messages=conversation,
        images=[image.ref for image in images],
        responses=list(ANSWERS),
        views=VIEWS,
        tokens=True,
    )
    for lora in (None, served.adapter):
        oracle = served.oracles[lora]
        text = oracle.renderer.render(conversation, open_turn=True)
        scored = await score_responses(served.engine, request, SEED, images, lora)
        for response in scored:
            assert response.token_ids[-1] in oracle.renderer.end_token_ids
            for number, (view, found) in enumerate(zip(VIEWS, response.views, strict=True), 1):
                shown = seen(served, number, view)
                expected = oracle.logprobs(text, shown, response.token_ids)
                np.testing.assert_allclose(found.tokens or [], expected, atol=TOLERANCE, rtol=0)
                assert abs(found.sum - sum(expected)) < TOLERANCE * len(expected)
                assert found.mean == found.sum / len(expected)
            whole, blind = response.views[0], response.views[2]
            assert response.image_dependence == whole.sum - blind.sum
        sums = {round(view.sum, 3) for response in scored for view in response.views}
        # Of some families two views may hide all of what are few tokens.
        assert len(sums) > 3 * len(ANSWERS), "views made no difference"


async def test_scores_equal_what_the_engine_said_while_it_sampled(served: Served) -> None:
    image = decoded_image(PICTURES[1])
    for lora in (None, served.adapter):
        output = await served.write(QUESTION, [Shown(image=PICTURES[1])], lora)
        written = output.outputs[0]
        token_ids = list(written.token_ids)
        request = LogprobsRequest(
            messages=QUESTION, images=[image.ref], responses=[token_ids], tokens=True
        )
        [scored] = await score_responses(served.engine, request, SEED, [image], lora)
        assert scored.token_ids == token_ids
        said = [p[t].logprob for p, t in zip(written.logprobs or (), token_ids, strict=True)]
        np.testing.assert_allclose(scored.views[0].tokens or [], said, atol=TOLERANCE, rtol=0)
        assert scored.image_dependence is None


async def test_an_answer_that_is_in_the_prefix_cache_is_scored_all_the_same(
    served: Served,
) -> None:
    """Longer than a block, and a second time."""
    image = decoded_image(PICTURES[1])
    answer = " ".join(["There is a small red circle, and a dog on a mat beside it."] * 4)
    request = LogprobsRequest(
        messages=QUESTION, images=[image.ref], responses=[answer, answer + " No."], tokens=True
    )
    oracle = served.oracle
    text = oracle.renderer.render(QUESTION, open_turn=True)
    for _ in range(2):
        for response in await score_responses(served.engine, request, SEED, [image], None):
            expected = oracle.logprobs(text, [Shown(image=PICTURES[1])], response.token_ids)
            found = response.views[0].tokens or []
            np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
