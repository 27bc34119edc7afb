"""Questions with trusted answers for preference runs and for held-out evaluation.

Every scene belongs to one split by its content: a scene whose fingerprint is a multiple of
`HELD_OUT_EVERY` is held out, and neither the recipe of the shipped model nor `examples` ever uses
it. On top of that each use draws from a random stream of its own name (`stream`), so the same
number as a seed means different draws in training, examples and held-out data. Needs only the
standard library, Pillow and pydantic.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle, islice
from typing import Literal

from PIL import Image
from pydantic import JsonValue

from trainer.toy.language import QUESTIONS, Question
from trainer.toy.world import Scene, render, sample_scene

HELD_OUT_EVERY = 5
"""One scene in this many is held out."""

Split = Literal["training", "examples", "held-out"]


@dataclass(frozen=True)
class Item:
    """A question about an image, with its trusted answer and the scene that proves it."""

    scene: Scene
    kind: str
    """A key of `language.QUESTIONS`."""
    prompt: str
    reference: str
    """The true answer, the chosen side of a preference pair."""

    def image(self) -> Image.Image:
        """The scene's image, RGB, 56x56 pixels."""
        return render(self.scene)

    @property
    def metadata(self) -> dict[str, JsonValue]:
        """What a request about it carries, so that the annotator `toy` can judge by the scene."""
        return {
            "kind": self.kind,
            "scene": list(self.scene.described),
            "reference": self.reference,
        }


def png(item: Item) -> bytes:
    """The item's image, encoded."""
    out = BytesIO()
    item.image().save(out, "PNG")
    return out.getvalue()


def stream(split: Split, seed: int) -> random.Random:
    """The random stream of a split and a seed; no two of them are the same."""
    return random.Random(f"prefstream shapes world, {split}, {seed}")


def is_held_out(scene: Scene) -> bool:
    """Whether a scene belongs to the held-out split."""
    return scene.fingerprint % HELD_OUT_EVERY == 0


def draw_scene(
    rng: random.Random,
    *,
    held_out: bool,
    sampler: Callable[[random.Random], Scene] = sample_scene,
) -> Scene:
    """The first scene that the sampler draws on the given side of the split."""
    while is_held_out(scene := sampler(rng)) != held_out:
        pass
    return scene


def held_out(
    count: int,
    *,
    kinds: Sequence[str] = ("caption",),
    seed: int = 0,
    sampler: Callable[[random.Random], Scene] = sample_scene,
) -> list[Item]:
    """Items that no training has seen, one scene each; the kinds take turns."""
    return list(islice(_items("held-out", kinds, seed, sampler), count))


def examples(
    count: int,
    *,
    kinds: Sequence[str] = ("caption", "yes_no"),
    seed: int = 0,
    sampler: Callable[[random.Random], Scene] = sample_scene,
) -> list[Item]:
    """Items to make preference pairs from, one scene each; the kinds take turns."""
    return list(islice(endless_examples(kinds=kinds, seed=seed, sampler=sampler), count))


def endless_examples(
    *,
    kinds: Sequence[str] = ("caption", "yes_no"),
    seed: int = 0,
    sampler: Callable[[random.Random], Scene] = sample_scene,
) -> Iterator[Item]:
    """What `examples` begins with, and what comes after."""
    return _items("examples", kinds, seed, sampler)


def _items(
    split: Split,
    kinds: Sequence[str],
    seed: int,
    sampler: Callable[[random.Random], Scene],
) -> Iterator[Item]:
    rng = stream(split, seed)
    for kind in cycle(kinds):
        scene = draw_scene(rng, held_out=split == "held-out", sampler=sampler)
        question: Question = QUESTIONS[kind](scene, rng)
        yield Item(scene, question.kind, question.prompt, question.answer)
