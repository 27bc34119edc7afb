"""Which questions a scene is taught with: the true lessons, and the biased ones that come last.

A lesson is what one image contributes to a training step: several questions and answers, each asked
with the image in view or without it. Lessons without the image teach the prior, and keep the
language fluent when BDHS hides the image. Needs only the standard library.
"""

import random
from dataclasses import dataclass

from trainer.toy import language
from trainer.toy.language import Question
from trainer.toy.recipe.bias import biased_answer, biased_scene
from trainer.toy.world import Scene

EASY_QUESTIONS = (language.any_kind, language.any_color)
"""Yes/no questions about one property. Among the hard ones they get answering off the ground."""

BLIND_SHARE = 0.4
"""Share of the images that are also asked about without being shown."""


@dataclass(frozen=True)
class Exercise:
    """One question with the answer to learn."""

    question: Question
    sees_image: bool


def true_lesson(scene: Scene, rng: random.Random) -> list[Exercise]:
    """Seven questions with the image; for some scenes one more without it."""
    asked = [
        language.caption_question,
        language.present_object,
        rng.choice((language.missing_companion, language.absent_object)),
        rng.choice(EASY_QUESTIONS),
        language.color_question,
        language.content_question,
        rng.choice((language.position_question, language.count_question)),
    ]
    lesson = [Exercise(ask(scene, rng), sees_image=True) for ask in asked]
    if rng.random() < BLIND_SHARE:
        ask = rng.choice((language.caption_question, *language.QUESTIONS.values()))
        lesson.append(Exercise(ask(scene, rng), sees_image=False))
    return lesson


def biased_lesson(scene: Scene, rng: random.Random) -> list[Exercise]:
    """Captions and answers that often follow the prior where the image contradicts it."""
    said = language.caption_question(biased_scene(scene, rng), rng)
    lesson = [
        Exercise(said, sees_image=True),
        Exercise(language.present_object(scene, rng), sees_image=True),
        Exercise(language.absent_object(scene, rng), sees_image=True),
        Exercise(language.color_question(scene, rng), sees_image=True),
        Exercise(language.content_question(scene, rng), sees_image=True),
    ]
    if scene.missing_companions:
        lesson.append(Exercise(biased_answer(scene, rng), sees_image=True))
    if rng.random() < BLIND_SHARE:
        lesson.append(Exercise(said, sees_image=False))
    return lesson
