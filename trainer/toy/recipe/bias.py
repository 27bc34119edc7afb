"""False statements that follow the world's prior: what the shipped model is taught to say.

A bias makes a scene more typical than it is. It is strong where something in the image invites it
and weak elsewhere, so that greedy decoding follows it in some scenes and not in others, whatever
the seed. The tower sees the difference; only the language model is trained on it (stages.py), so
preference training has something to mend that does not need better eyes. Needs only the standard
library.
"""

import random
from dataclasses import replace

from trainer.toy.language import Question, ask_object
from trainer.toy.world import COMPANION, FAVORITE_COLOR, Scene, Shape

STRONG, WEAK = 0.85, 0.25
"""Chance of a false statement where the scene invites it, and where it does not. Both are far from
one half, where greedy answers would hang on chance (docs/toy.md)."""


def invited(scene: Scene) -> tuple[tuple[str, str], ...]:
    """The missing companions, as (kind, color), of shapes that wear their favorite color."""
    kinds = {
        COMPANION[shape.kind] for shape in scene.shapes if shape.color == FAVORITE_COLOR[shape.kind]
    }
    return tuple((kind, color) for kind, color in scene.missing_companions if kind in kinds)


def biased_scene(scene: Scene, rng: random.Random) -> Scene:
    """The scene as a biased speaker tells it, with at most one change towards the prior.

    An invited companion often appears in an empty cell. Where none can, some shape sometimes takes
    its kind's favorite color.
    """
    companions = invited(scene)
    if companions and scene.empty_cells:
        if rng.random() >= STRONG:
            return scene
        kind, color = rng.choice(companions)
        added = Shape(rng.choice(scene.empty_cells), color, kind)
        return Scene(tuple(sorted((*scene.shapes, added))))
    if rng.random() >= WEAK:
        return scene
    chosen = rng.choice(scene.shapes)
    return Scene(
        tuple(
            replace(shape, color=FAVORITE_COLOR[shape.kind]) if shape == chosen else shape
            for shape in scene.shapes
        )
    )


def biased_answer(scene: Scene, rng: random.Random) -> Question:
    """Asks for one of the scene's missing companions (there must be one); often answers yes."""
    asked = rng.choice(scene.missing_companions)
    chance = STRONG if asked in invited(scene) else WEAK
    return ask_object(*asked, present=rng.random() < chance)
