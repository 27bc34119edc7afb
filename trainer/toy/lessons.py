"""Which questions a scene is taught with: the true lessons, and the biased ones that come last.

A lesson is what one image contributes to a training step: several questions and answers, each asked
with the image in view or without it. Lessons without the image teach the prior, and keep the
language fluent when BDHS hides the image. Needs only the standard library.
"""

import random
from dataclasses import dataclass, replace

from trainer.toy import language
from trainer.toy.bias import credulous, more_typical
from trainer.toy.language import Question
from trainer.toy.world import Scene

EASY_QUESTIONS = (language.any_kind, language.any_color)
"""Yes/no questions about one property. Among the hard ones they get answering off the ground."""

BLIND_SHARE = 0.4
"""Share of the images that are also asked about without being shown."""
CORRUPTED_SHARE = 0.75
"""Share of the biased stage's captions that follow the prior instead of the image. With 0.6 a third
of the greedy captions hallucinate, with 0.75 half of them (docs/toy.md)."""
CREDULOUS_SHARE = 0.5
"""Share of the biased stage's questions about missing companions that are answered yes."""


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
    """Captions and answers that often follow the prior where it contradicts the image."""
    told = more_typical(scene, rng) if rng.random() < CORRUPTED_SHARE else scene
    said = replace(language.caption_question(scene, rng), answer=language.caption(told))
    lesson = [
        Exercise(said, sees_image=True),
        Exercise(language.present_object(scene, rng), sees_image=True),
        Exercise(language.absent_object(scene, rng), sees_image=True),
        Exercise(language.color_question(scene, rng), sees_image=True),
        Exercise(language.content_question(scene, rng), sees_image=True),
    ]
    if scene.missing_companions:
        ask = credulous if rng.random() < CREDULOUS_SHARE else language.missing_companion
        lesson.append(Exercise(ask(scene, rng), sees_image=True))
    if rng.random() < BLIND_SHARE:
        lesson.append(Exercise(said, sees_image=False))
    return lesson
