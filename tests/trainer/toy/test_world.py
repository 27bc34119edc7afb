import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.toy.world import (
    CELLS,
    COLORS,
    FAVORITE_COLOR,
    IMAGE_SIZE,
    Scene,
    Shape,
    render,
    sample_scene,
    typical_scene,
    uniform_scene,
)

SEEDS = st.integers(0, 2**32)


def test_a_seed_gives_the_same_scenes_on_every_machine():
    rng = random.Random(7)
    told = "\n".join(repr(sample_scene(rng)) for _ in range(100))
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "37c5a866e4a46044"


@given(SEEDS)
def test_a_scene_has_two_to_four_shapes_in_cells_of_their_own(seed: int):
    rng = random.Random(seed)
    for scene in (typical_scene(rng), uniform_scene(rng)):
        cells = [shape.cell for shape in scene.shapes]
        assert 2 <= len(cells) <= 4
        assert sorted({*cells, *scene.empty_cells}) == list(range(len(CELLS)))
        assert len(cells) + len(scene.empty_cells) == len(CELLS)


def test_shapes_must_lie_in_distinct_cells_in_reading_order():
    first, second = Shape(0, "red", "circle"), Shape(1, "blue", "square")
    with pytest.raises(ValueError, match="distinct cells"):
        Scene((first, first))
    with pytest.raises(ValueError, match=r"reading order; got \[1, 0\]"):
        Scene((second, first))


def test_typical_scenes_follow_the_prior_and_uniform_ones_do_not():
    def share_of_favorites(scenes: list[Scene]) -> float:
        shapes = [shape for scene in scenes for shape in scene.shapes]
        return sum(s.color == FAVORITE_COLOR[s.kind] for s in shapes) / len(shapes)

    rng = random.Random(0)
    assert share_of_favorites([typical_scene(rng) for _ in range(1000)]) > 0.6
    assert share_of_favorites([uniform_scene(rng) for _ in range(1000)]) < 0.2


def test_missing_companions_are_expected_and_absent():
    scene = Scene((Shape(0, "green", "circle"), Shape(1, "red", "square")))
    assert scene.missing_companions == (("square", "blue"), ("triangle", "yellow"))
    assert Scene((Shape(0, "green", "circle"), Shape(1, "blue", "square"))).missing_companions == (
        ("triangle", "yellow"),
    )


@given(SEEDS)
def test_a_scene_has_one_image_and_shows_each_shape_in_its_cell(seed: int):
    scene = sample_scene(random.Random(seed))
    image = render(scene)
    assert (image.mode, image.size) == ("RGB", (IMAGE_SIZE, IMAGE_SIZE))
    assert image.tobytes() == render(Scene(scene.shapes)).tobytes()
    for cell in range(len(CELLS)):
        row, column = divmod(cell, 2)
        middle = image.getpixel((14 + 28 * column, 14 + 28 * row))
        shape = scene.at(cell)
        assert (middle in COLORS.values()) == (shape is not None)
        if shape:
            assert middle == COLORS[shape.color]
