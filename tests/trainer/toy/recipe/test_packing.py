import random

import pytest
import torch

from trainer.toy.language import Question
from trainer.toy.recipe.family import FAMILIES
from trainer.toy.recipe.lessons import Exercise, biased_lesson, true_lesson
from trainer.toy.recipe.model import IMAGE_TOKENS, build_model, build_processor
from trainer.toy.recipe.packing import encode, hidden_states, loss, pack
from trainer.toy.recipe.tokenizer import IMAGE_ID, build_tokenizer
from trainer.toy.world import render, sample_scene

TOKENIZER = build_tokenizer()
PROCESSOR = build_processor(TOKENIZER)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
@pytest.mark.parametrize("lesson", [true_lesson, biased_lesson])
def test_packed_branches_equal_sequences_of_their_own(lesson, family):
    """Of M-RoPE, transformers computes the positions of those by itself."""
    torch.manual_seed(0)
    tokenizer = family.build_tokenizer()
    processor = family.build_processor(tokenizer)
    model = family.build_model(tokenizer).eval()
    rng = random.Random(4)
    scenes = [sample_scene(rng) for _ in range(2)]
    lessons = [lesson(scene, rng) for scene in scenes]
    lessons[1].append(Exercise(lessons[1][0].question, sees_image=False))
    batch = pack(scenes, lessons, processor, family)
    with torch.inference_mode():
        packed = model.lm_head(hidden_states(model, batch))
        for row, (scene_lesson, answers) in enumerate(zip(lessons, batch.weights > 0, strict=True)):
            seen = sorted(scene_lesson, key=lambda exercise: not exercise.sees_image)
            pixels = family.pixels(processor, [render(scenes[row])])
            alone = torch.cat(
                [_alone(model, processor, family, pixels, exercise) for exercise in seen]
            )
            torch.testing.assert_close(packed[row][answers], alone, atol=1e-5, rtol=1e-5)


def _alone(model, processor, family, pixels, exercise: Exercise) -> torch.Tensor:
    """Logits before each answer token when the exercise is a plain causal sequence."""
    ids, weights = encode(
        exercise.question,
        processor,
        sees_image=exercise.sees_image,
        image_tokens=family.image_tokens,
    )
    given = {"input_ids": torch.tensor([ids])}
    if exercise.sees_image:
        given |= pixels
        if "image_grid_thw" in pixels:
            given["mm_token_type_ids"] = (given["input_ids"] == IMAGE_ID).long()
    logits = model(**given).logits[0]
    return logits[:-1][torch.tensor(weights[1:]) > 0]


def test_meaningful_words_weigh_more_and_questions_nothing():
    question = Question("yes_no", "Is there a circle?", "No, there is no red circle.")
    ids, weights = encode(question, PROCESSOR, sees_image=True, image_tokens=IMAGE_TOKENS)
    assert ids.count(PROCESSOR.image_token_id) == IMAGE_TOKENS
    answer = [(TOKENIZER.decode([i]), w) for i, w in zip(ids, weights, strict=True) if w]
    assert answer == [
        ("No", 3.0),
        (",", 1.0),
        (" there", 1.0),
        (" is", 1.0),
        (" no", 3.0),
        (" red", 3.0),
        (" circle", 3.0),
        (".", 1.0),
        ("</s>", 1.0),
    ]


def test_a_fresh_model_loses_about_the_logarithm_of_its_vocabulary():
    torch.manual_seed(0)
    rng = random.Random(0)
    scene = sample_scene(rng)
    batch = pack([scene], [true_lesson(scene, rng)], PROCESSOR)
    assert loss(build_model(TOKENIZER), batch).item() == pytest.approx(6.0, abs=0.3)
