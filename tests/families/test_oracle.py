"""The oracle is transformers, and what it is asked to tell apart differs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.schemas import assistant_turn, user_turn
from tests.families.adapters import make_adapter
from tests.families.family import FAMILIES
from tests.families.oracle import NEW_TOKENS, Oracle, Shown
from tests.families.pictures import PICTURES

Checkpoint = Callable[[str], Path]

TURNS = [user_turn("Describe the image.", 1)]
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=FAMILIES)
def oracle(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> Oracle:
    return Oracle(FAMILIES[request.param], checkpoint(request.param))


def text_of(oracle: Oracle) -> str:
    return oracle.renderer.render(TURNS, open_turn=True)


def scores(oracle: Oracle, **shown: Any) -> torch.Tensor:
    """Log-probabilities of the first token of an answer."""
    [picture, *_] = PICTURES
    logits = oracle.logits(text_of(oracle), [Shown(image=picture, **shown)], [5])
    return torch.log_softmax(logits[0], -1)


def test_it_writes_what_generate_writes(oracle: Oracle) -> None:
    """Where nothing is hidden, transformers knows all by itself."""
    [picture, *_] = PICTURES
    written = oracle.generate(text_of(oracle), [Shown(image=picture)])
    inputs = oracle.inputs(text_of(oracle), [Shown(image=picture)])
    out = oracle.model.generate(
        input_ids=inputs.ids,
        attention_mask=inputs.mask,
        **inputs.types,
        **inputs.pixels,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        suppress_tokens=oracle.suppressed,
    )
    assert out[0, inputs.ids.shape[1] :].tolist() == written.token_ids
    given = oracle.logprobs(text_of(oracle), [Shown(image=picture)], written.token_ids)
    np.testing.assert_allclose(given, written.logprobs, atol=TOLERANCE, rtol=0)
    again = oracle.generate(text_of(oracle), [Shown(image=picture)], written.token_ids[:2])
    assert again.token_ids[: NEW_TOKENS - 2] == written.token_ids[2:]


def test_masks_and_noise_matter(oracle: Oracle) -> None:
    k = oracle.image_tokens(PICTURES[0])
    everything = list(range(k))
    base = scores(oracle)
    torch.testing.assert_close(scores(oracle, kept=everything), base)
    others = [
        scores(oracle, kept=[]),
        scores(oracle, kept=[0]),
        scores(oracle, kept=everything[:-1]),
        scores(oracle, kept=everything[::2]),
        scores(oracle, noise_steps=500, noise_seed=1),
        scores(oracle, noise_steps=500, noise_seed=2),
        scores(oracle, noise_steps=500, noise_seed=1, kept=everything[::2]),
    ]
    distinct = [base, *others]
    for i, one in enumerate(distinct):
        for other in distinct[i + 1 :]:
            assert (one - other).abs().max() > 10 * TOLERANCE


def test_each_image_has_its_own_mask_and_noise(oracle: Oracle) -> None:
    """Whatever is done to one image is done to it alone, wherever it stands."""
    turns = [user_turn("What is it?", 1), assistant_turn("A cat."), user_turn("And these?", 2)]
    text = oracle.renderer.render(turns, open_turn=True)
    plain = [Shown(image=picture) for picture in PICTURES]
    inputs = oracle.inputs(text, plain)
    counts = [oracle.image_tokens(picture) for picture in PICTURES]
    assert (inputs.ids == oracle.image_id).sum() == sum(counts)
    for place, picture in enumerate(PICTURES):
        shown = [*plain]
        shown[place] = Shown(image=picture, kept=[0], noise_steps=300)
        changed = oracle.inputs(text, shown)
        assert (changed.mask == 0).sum() == counts[place] - 1
        hidden = changed.mask[0] == 0
        before = inputs.ids[0, : int(hidden.nonzero()[0])]
        assert (before == oracle.image_id).sum() == sum(counts[:place]) + 1
        differs = (changed.pixels["pixel_values"] != inputs.pixels["pixel_values"]).flatten(1)
        rows = differs.any(1).nonzero()[:, 0].tolist()
        assert rows == list(range(rows[0], rows[-1] + 1))
        assert (rows[0] == 0) == (place == 0)
        assert (rows[-1] == len(differs) - 1) == (place == 2)


def test_with_mrope_hidden_tokens_keep_their_positions(oracle: Oracle) -> None:
    """To close the gap gives something else; in other families there is none to close."""
    [picture, *_] = PICTURES
    shown = [Shown(image=picture, kept=[0])]
    kept = oracle.logits(text_of(oracle), shown, [5])
    closed = oracle.logits(text_of(oracle), shown, [5], close_gap=True)
    assert bool((kept - closed).abs().max() > 10 * TOLERANCE) == oracle.family.mrope


def test_an_adapter_matters(oracle: Oracle, checkpoint: Checkpoint, tmp_path: Path) -> None:
    family = oracle.family
    adapter = make_adapter(family, checkpoint(family.name), tmp_path / "adapter")
    adapted = Oracle(family, checkpoint(family.name), adapter)
    assert (scores(adapted) - scores(oracle)).abs().max() > 10 * TOLERANCE
