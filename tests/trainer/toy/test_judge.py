import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.toy.judge import Claim, read_claims, read_color, read_yes_no, score_caption
from trainer.toy.language import caption, shape_sentence
from trainer.toy.world import COLORS, KINDS, Scene, Shape, uniform_scene

SCENE = Scene((Shape(0, "red", "circle"), Shape(3, "orange", "square")))
SEEDS = st.integers(0, 2**32)


@given(SEEDS)
def test_nothing_is_wrong_with_the_true_caption_of_any_scene(seed: int):
    scene = uniform_scene(random.Random(seed))
    score = score_caption(caption(scene), scene)
    assert score.hallucinated == 0
    assert score.recall == score.precision == 1
    assert score.well_formed
    assert len(score.claims) == len(scene.shapes)


@given(SEEDS)
def test_a_false_object_is_found_wherever_it_is_put(seed: int):
    rng = random.Random(seed)
    scene = uniform_scene(rng)
    cell = rng.randrange(4)
    false = rng.choice(
        [
            shape
            for color in COLORS
            for kind in KINDS
            if (shape := Shape(cell, color, kind)) not in scene.shapes
        ]
    )
    sentences = [shape_sentence(shape) for shape in scene.shapes]
    sentences.insert(rng.randint(0, len(sentences)), shape_sentence(false))
    score = score_caption(" ".join(sentences), scene)
    assert score.hallucinated == 1
    assert score.recall == 1
    assert score.precision == pytest.approx(1 - 1 / len(sentences))
    assert score.well_formed


def test_a_shape_in_the_wrong_cell_is_false_and_one_without_a_cell_is_not():
    assert score_caption("There is a red circle in the top right.", SCENE).hallucinated == 1
    loose = score_caption("I see a circle and an orange square", SCENE)
    assert (loose.hallucinated, loose.recalled, loose.well_formed) == (0, 2, False)


def test_claims_are_read_in_order_and_denials_claim_nothing():
    assert read_claims(
        "There is a Red circle in the top left. A square. No, there is no triangle."
    ) == (
        Claim("circle", "red", 0),
        Claim("square", None, None),
    )
    assert read_claims("There are three shapes.") == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "There is a red circle in the top left",
        "There is a red circle in the top left.There is a red circle in the top left.",
        "There is a circle in the top left.",
        "There is a red circle in the top left. There is",
    ],
)
def test_what_is_not_whole_caption_sentences_is_not_well_formed(text: str):
    assert not score_caption(text, SCENE).well_formed


def test_a_caption_without_claims_has_neither_precision_nor_recall():
    score = score_caption("A fine day.", SCENE)
    assert (score.precision, score.recall, score.hallucinated) == (0, 0, 0)


def test_verdicts_and_colors():
    assert read_yes_no("Yes, there is a blue square.") is True
    assert read_yes_no("  no.") is False
    assert read_yes_no("Nothing") is None
    assert read_yes_no("There is, yes") is None
    assert read_color("The circle is Purple, not red.") == "purple"
    assert read_color("The circle is covered.") is None
