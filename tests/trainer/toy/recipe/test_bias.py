import random

from hypothesis import given
from hypothesis import strategies as st

from trainer.toy.judge import read_yes_no
from trainer.toy.recipe.bias import STRONG, WEAK, biased_answer, biased_scene, invited
from trainer.toy.world import FAVORITE_COLOR, Scene, Shape, sample_scene

INVITING = Scene((Shape(0, "red", "circle"), Shape(3, "orange", "square")))
PLAIN = Scene((Shape(0, "green", "circle"), Shape(3, "orange", "square")))


def test_a_shape_in_its_favorite_color_invites_its_companion():
    assert invited(INVITING) == (("square", "blue"),)
    assert invited(PLAIN) == ()


@given(st.integers(0, 2**32))
def test_a_bias_is_one_change_at_most_and_towards_the_prior(seed: int):
    rng = random.Random(seed)
    scene = sample_scene(rng)
    told = biased_scene(scene, rng)
    changed = [shape for shape in told.shapes if shape not in scene.shapes]
    assert len(changed) <= 1
    assert all(shape.color == FAVORITE_COLOR[shape.kind] for shape in changed)
    if len(told.shapes) > len(scene.shapes):
        assert (changed[0].kind, changed[0].color) in invited(scene)


def test_the_bias_is_strong_where_it_is_invited_and_weak_elsewhere():
    rng = random.Random(0)

    def share_of_yes(scene: Scene, noun: str) -> float:
        asked = [biased_answer(scene, rng) for _ in range(2000)]
        verdicts = [read_yes_no(q.answer) for q in asked if noun in q.prompt]
        return sum(verdict is True for verdict in verdicts) / len(verdicts)

    assert abs(share_of_yes(INVITING, "blue square") - STRONG) < 0.05
    assert abs(share_of_yes(INVITING, "yellow triangle") - WEAK) < 0.05
    assert abs(share_of_yes(PLAIN, "blue square") - WEAK) < 0.05
    changed = [biased_scene(INVITING, rng) != INVITING for _ in range(2000)]
    assert abs(sum(changed) / len(changed) - STRONG) < 0.05
