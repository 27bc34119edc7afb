import subprocess
import sys

from trainer.toy.dataset import HELD_OUT_EVERY, examples, held_out, is_held_out, stream
from trainer.toy.judge import read_yes_no, score_caption
from trainer.toy.world import uniform_scene


def test_a_seed_gives_the_same_items_and_another_seed_others():
    assert held_out(20, seed=3) == held_out(20, seed=3)
    assert held_out(20, seed=3) != held_out(20, seed=4)
    assert held_out(20) == held_out(30)[:20]


def test_no_scene_is_both_held_out_and_an_example():
    assert all(is_held_out(item.scene) for item in held_out(200))
    assert not any(is_held_out(item.scene) for item in examples(200))


def test_streams_of_different_uses_differ_for_the_same_seed():
    draws = [stream(split, 5).random() for split in ("training", "examples", "held-out")]
    assert len(set(draws)) == 3


def test_about_one_scene_in_five_is_held_out():
    rng = stream("training", 0)
    share = sum(is_held_out(uniform_scene(rng)) for _ in range(4000)) / 4000
    assert abs(share - 1 / HELD_OUT_EVERY) < 0.03


def test_kinds_take_turns_and_references_are_true():
    items = examples(40, kinds=("caption", "yes_no"))
    assert [item.kind for item in items[:4]] == ["caption", "yes_no", "caption", "yes_no"]
    assert all(score_caption(item.reference, item.scene).precision == 1 for item in items[::2])
    assert all(read_yes_no(item.reference) is not None for item in items[1::2])
    assert items[0].image().size == (56, 56)


def test_half_of_the_true_yes_no_answers_are_yes():
    items = held_out(1000, kinds=("yes_no",))
    share = sum(read_yes_no(item.reference) is True for item in items) / len(items)
    assert abs(share - 0.5) < 0.06


def test_the_world_needs_no_numerical_library():
    code = (
        "import sys, trainer.toy.dataset, trainer.toy.judge, trainer.toy.recipe.bias;"
        "print([m for m in ('torch', 'numpy', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
