"""What can be said about a scene: captions, questions and their trusted answers, as plain text.

Every text is a function of the scene, so every answer here is true. A caption has one sentence
for each shape, in reading order; the sentences and their words are where sentence-guided BDHS
cuts. Needs only the standard library.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from trainer.toy.world import CELLS, COLORS, KINDS, Scene, Shape

CAPTION_PROMPTS = ("Describe the image.", "What does the image show?", "List every shape you see.")
COUNTS = ("zero", "one", "two", "three", "four")


@dataclass(frozen=True)
class Question:
    """A question about a scene and its answer."""

    kind: str
    """What is asked: "caption", "yes_no", "color", "position", "count" or "content"."""
    prompt: str
    answer: str


def with_article(noun: str) -> str:
    """ "a red circle", "an orange square"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def shape_sentence(shape: Shape) -> str:
    """The sentence of a caption that states one shape."""
    return f"There is {with_article(shape.name)} in the {CELLS[shape.cell]}."


def caption(scene: Scene) -> str:
    """The caption of a scene: one sentence for each shape, joined by spaces."""
    return " ".join(shape_sentence(shape) for shape in scene.shapes)


def caption_question(scene: Scene, rng: random.Random) -> Question:
    """Asks for a caption, in one of several wordings."""
    return Question("caption", rng.choice(CAPTION_PROMPTS), caption(scene))


def ask_object(kind: str | None, color: str | None, present: bool) -> Question:
    """Asks whether there is a shape of this kind and color, and answers as told.

    With `kind` None the question is about "a blue shape", with `color` None about "a square".
    """
    noun = " ".join(word for word in (color, kind or "shape") if word)
    prompt = f"Is there {with_article(noun)} in the image?"
    if present:
        return Question("yes_no", prompt, f"Yes, there is {with_article(noun)} in the image.")
    return Question("yes_no", prompt, f"No, there is no {noun} in the image.")


def object_question(scene: Scene, kind: str | None, color: str | None) -> Question:
    """Asks whether there is a shape of this kind and color, and answers by the scene."""
    return ask_object(kind, color, scene.has(kind, color))


def present_object(scene: Scene, rng: random.Random) -> Question:
    """Asks for a colored shape that is there; the answer is yes."""
    shape = rng.choice(scene.shapes)
    return object_question(scene, shape.kind, shape.color)


def absent_object(scene: Scene, rng: random.Random) -> Question:
    """Asks for a colored shape that is not there, any with equal chance; the answer is no."""
    absent = [(kind, color) for kind in KINDS for color in COLORS if not scene.has(kind, color)]
    return object_question(scene, *rng.choice(absent))


def missing_companion(scene: Scene, rng: random.Random) -> Question:
    """Asks for a colored shape that the prior expects and that is not there; the answer is no.

    Where nothing of that sort is missing, any absent shape will do.
    """
    missing = scene.missing_companions
    return object_question(scene, *rng.choice(missing)) if missing else absent_object(scene, rng)


def any_kind(scene: Scene, rng: random.Random) -> Question:
    """Asks for a kind in any color: an easy yes/no question."""
    return object_question(scene, rng.choice(KINDS), None)


def any_color(scene: Scene, rng: random.Random) -> Question:
    """Asks for a color in any kind: an easy yes/no question, present and absent alike often."""
    present = rng.random() < 0.5
    colors = [color for color in COLORS if scene.has(color=color) == present]
    return object_question(scene, None, rng.choice(colors))


def color_question(scene: Scene, rng: random.Random) -> Question:
    """Asks the color of a shape, named by its kind where that is unique and by its cell if not."""
    shape = rng.choice(scene.shapes)
    alone = sum(other.kind == shape.kind for other in scene.shapes) == 1
    noun = shape.kind if alone else f"shape in the {CELLS[shape.cell]}"
    return Question("color", f"What color is the {noun}?", f"The {noun} is {shape.color}.")


def position_question(scene: Scene, rng: random.Random) -> Question:
    """Asks where a colored shape is; of several alike the answer names the first in order."""
    name = rng.choice(scene.shapes).name
    cell = next(shape.cell for shape in scene.shapes if shape.name == name)
    return Question("position", f"Where is the {name}?", f"The {name} is in the {CELLS[cell]}.")


def count_question(scene: Scene, rng: random.Random) -> Question:
    """Asks how many shapes there are. (Takes `rng` to be called like its siblings.)"""
    answer = f"There are {COUNTS[len(scene.shapes)]} shapes in the image."
    return Question("count", "How many shapes are in the image?", answer)


def content_question(scene: Scene, rng: random.Random) -> Question:
    """Asks what is in a cell, which may be empty."""
    cell = rng.randrange(len(CELLS))
    shape = scene.at(cell)
    answer = shape_sentence(shape) if shape else f"There is nothing in the {CELLS[cell]}."
    return Question("content", f"What is in the {CELLS[cell]}?", answer)


def yes_no_question(scene: Scene, rng: random.Random) -> Question:
    """Asks for a colored shape: present half of the time, else missing as typical or as any."""
    asked = rng.choices((present_object, missing_companion, absent_object), weights=(2, 1, 1))[0]
    return asked(scene, rng)


QUESTIONS: dict[str, Callable[[Scene, random.Random], Question]] = {
    "caption": caption_question,
    "yes_no": yes_no_question,
    "color": color_question,
    "position": position_question,
    "count": count_question,
    "content": content_question,
}
"""One question of each kind about a scene."""
