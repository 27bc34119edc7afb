import random

from hypothesis import given
from hypothesis import strategies as st

from trainer.toy import language
from trainer.toy.judge import read_color, read_yes_no
from trainer.toy.world import Scene, Shape, uniform_scene

SCENE = Scene((Shape(0, "red", "circle"), Shape(3, "orange", "square")))
SEEDS = st.integers(0, 2**32)


def test_a_caption_has_a_sentence_for_each_shape_in_reading_order():
    assert language.caption(SCENE) == (
        "There is a red circle in the top left. There is an orange square in the bottom right."
    )


def test_questions_about_objects_are_answered_in_full_sentences():
    there = language.object_question(SCENE, "square", "orange")
    assert there.prompt == "Is there an orange square in the image?"
    assert there.answer == "Yes, there is an orange square in the image."
    absent = language.object_question(SCENE, "triangle", None)
    assert absent.prompt == "Is there a triangle in the image?"
    assert absent.answer == "No, there is no triangle in the image."
    assert language.object_question(SCENE, None, "blue").answer.startswith("No, there is no blue")


@given(SEEDS)
def test_every_answer_is_true(seed: int):
    rng = random.Random(seed)
    scene = uniform_scene(rng)
    assert read_yes_no(language.present_object(scene, rng).answer) is True
    assert read_yes_no(language.absent_object(scene, rng).answer) is False
    assert read_yes_no(language.missing_companion(scene, rng).answer) is False
    assert scene.has(color=read_color(language.color_question(scene, rng).answer))
    count = language.count_question(scene, rng).answer
    assert language.COUNTS[len(scene.shapes)] in count
    content = language.content_question(scene, rng)
    assert content.answer in language.caption(scene) or "nothing" in content.answer


def test_a_color_question_names_a_kind_only_where_it_is_unique():
    twins = Scene((Shape(0, "red", "circle"), Shape(1, "blue", "circle")))
    rng = random.Random(0)
    prompts = {language.color_question(twins, rng).prompt for _ in range(20)}
    assert prompts == {
        "What color is the shape in the top left?",
        "What color is the shape in the top right?",
    }
    assert language.color_question(SCENE, rng).prompt in (
        "What color is the circle?",
        "What color is the square?",
    )
