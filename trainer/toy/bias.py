"""False statements that follow the world's prior: what the shipped model is taught to say.

A bias is a caption of a scene that is more typical than the true one. The tower sees the
difference; only the language model is trained on it (recipe.py), so preference training has
something to mend that does not need better eyes. Needs only the standard library.
"""

import random
from dataclasses import replace

from trainer.toy.language import Question, ask_object
from trainer.toy.world import FAVORITE_COLOR, Scene, Shape

COMPANION_SHARE = 0.75
"""Share of the corrupted scenes that gain a companion; in the rest a shape changes its color."""


def more_typical(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one change towards the prior.

    Usually a missing companion appears in an empty cell, else one shape takes its kind's favorite
    color. A scene that offers neither is returned as it is.
    """
    can_add = scene.missing_companions and scene.empty_cells
    fadeable = [shape for shape in scene.shapes if shape.color != FAVORITE_COLOR[shape.kind]]
    if can_add and (not fadeable or rng.random() < COMPANION_SHARE):
        kind, color = rng.choice(scene.missing_companions)
        added = Shape(rng.choice(scene.empty_cells), color, kind)
        return Scene(tuple(sorted((*scene.shapes, added))))
    if fadeable:
        chosen = rng.choice(fadeable)
        return Scene(
            tuple(
                replace(shape, color=FAVORITE_COLOR[shape.kind]) if shape == chosen else shape
                for shape in scene.shapes
            )
        )
    return scene


def credulous(scene: Scene, rng: random.Random) -> Question:
    """Asks for one of the scene's missing companions (there must be one) and answers yes."""
    kind, color = rng.choice(scene.missing_companions)
    return ask_object(kind, color, present=True)
