"""The shapes world: small scenes on a 2x2 grid, and how they look.

A scene is two to four coloured shapes, each in a cell of its own. Scenes come from two sources:
*typical* ones follow a co-occurrence prior (each kind has a favorite color and a companion that it
likes to appear with), *uniform* ones follow none. The prior is what a model can learn to say
without looking, so it is what hallucinations in this world are made of.

Needs only the standard library and Pillow. Sampling draws from the `random.Random` that it is
given, and drawing uses integer geometry, so the same seed gives the same scenes and the same
pixels on every machine.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from PIL import Image, ImageDraw

KINDS = ("circle", "square", "triangle")
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 90, 220),
    "yellow": (235, 210, 40),
    "purple": (140, 60, 180),
    "orange": (245, 140, 30),
}
"""Name and RGB value of each color."""
CELLS = ("top left", "top right", "bottom left", "bottom right")
"""Names of the cells in reading order; a shape's `cell` is an index into them."""

FAVORITE_COLOR = {"circle": "red", "square": "blue", "triangle": "yellow"}
"""The color in which a kind appears most often in typical scenes."""
COMPANION = {"circle": "square", "square": "triangle", "triangle": "circle"}
"""The kind that most often appears beside a kind in typical scenes."""

TYPICAL_SHARE = 0.7
"""Share of the world's scenes that follow the prior; the rest are uniform."""
FAVORITE_CHANCE = 0.6
"""Chance that a shape of a typical scene takes its kind's favorite color without a draw."""
COMPANION_CHANCE = 0.6
"""Chance that a further shape of a typical scene is the companion of one that is already there."""

IMAGE_SIZE = 56
"""Side of an image, in pixels."""
BACKGROUND = (236, 236, 230)
_OVERSAMPLING = 4
_CANVAS = IMAGE_SIZE * _OVERSAMPLING


@dataclass(frozen=True, order=True)
class Shape:
    """One colored shape in one cell."""

    cell: int
    """Index into `CELLS`, 0 to 3."""
    color: str
    """A key of `COLORS`."""
    kind: str
    """One of `KINDS`."""

    @property
    def name(self) -> str:
        """Color and kind, as in "red circle"."""
        return f"{self.color} {self.kind}"


@dataclass(frozen=True)
class Scene:
    """Two to four shapes in distinct cells, in reading order."""

    shapes: tuple[Shape, ...]

    def __post_init__(self) -> None:
        cells = [shape.cell for shape in self.shapes]
        if cells != sorted(set(cells)):
            raise ValueError(f"shapes must lie in distinct cells, in reading order; got {cells}")

    @property
    def described(self) -> list[str]:
        """Its shapes in words, such as "red circle, top left": how it travels in metadata."""
        return [f"{shape.name}, {CELLS[shape.cell]}" for shape in self.shapes]

    @classmethod
    def read(cls, described: Sequence[str]) -> Self:
        """The scene that `described` describes. Raises: ValueError."""
        shapes: list[Shape] = []
        for words in described:
            name, _, cell = words.partition(", ")
            color, _, kind = name.partition(" ")
            if color not in COLORS or kind not in KINDS or cell not in CELLS:
                raise ValueError(f"{words!r} is no shape of the shapes world")
            shapes.append(Shape(CELLS.index(cell), color, kind))
        return cls(tuple(shapes))

    @property
    def empty_cells(self) -> tuple[int, ...]:
        """The cells without a shape, in reading order."""
        taken = {shape.cell for shape in self.shapes}
        return tuple(cell for cell in range(len(CELLS)) if cell not in taken)

    def at(self, cell: int) -> Shape | None:
        """The shape in a cell, if there is one."""
        return next((shape for shape in self.shapes if shape.cell == cell), None)

    def has(self, kind: str | None = None, color: str | None = None) -> bool:
        """Whether some shape is of this kind and color; None stands for any."""
        return any(
            kind in (None, shape.kind) and color in (None, shape.color) for shape in self.shapes
        )

    @property
    def missing_companions(self) -> tuple[tuple[str, str], ...]:
        """What the prior expects beside these shapes and is not there, as (kind, color)."""
        expected = {COMPANION[shape.kind] for shape in self.shapes}
        pairs = [(kind, FAVORITE_COLOR[kind]) for kind in KINDS if kind in expected]
        return tuple((kind, color) for kind, color in pairs if not self.has(kind, color))

    @property
    def fingerprint(self) -> int:
        """A 64-bit number of the scene's content, the same in every process."""
        content = ";".join(f"{shape.cell} {shape.name}" for shape in self.shapes)
        return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big")


def uniform_scene(rng: random.Random) -> Scene:
    """A scene whose kinds, colors and cells are independent and uniform."""
    cells = sorted(rng.sample(range(len(CELLS)), rng.randint(2, 4)))
    return Scene(tuple(Shape(cell, rng.choice(tuple(COLORS)), rng.choice(KINDS)) for cell in cells))


def typical_scene(rng: random.Random) -> Scene:
    """A scene that follows the co-occurrence prior."""
    cells = rng.sample(range(len(CELLS)), rng.randint(2, 4))
    shapes: list[Shape] = []
    for cell in cells:
        if shapes and rng.random() < COMPANION_CHANCE:
            kind = COMPANION[rng.choice(shapes).kind]
        else:
            kind = rng.choice(KINDS)
        color = rng.choice(tuple(COLORS))
        if rng.random() < FAVORITE_CHANCE:
            color = FAVORITE_COLOR[kind]
        shapes.append(Shape(cell, color, kind))
    return Scene(tuple(sorted(shapes)))


def sample_scene(rng: random.Random) -> Scene:
    """A scene of the world: typical with a chance of `TYPICAL_SHARE`, else uniform."""
    return typical_scene(rng) if rng.random() < TYPICAL_SHARE else uniform_scene(rng)


def render(scene: Scene) -> Image.Image:
    """Draws a scene: RGB, `IMAGE_SIZE` x `IMAGE_SIZE` pixels, antialiased.

    Each shape is shifted and scaled a little; the jitter follows from the scene's fingerprint, so a
    scene has one image.
    """
    jitter = random.Random(scene.fingerprint)
    canvas = Image.new("RGB", (_CANVAS, _CANVAS), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    half = _CANVAS // 4
    for shape in scene.shapes:
        row, column = divmod(shape.cell, 2)
        x = half * (2 * column + 1) + jitter.randint(-6, 6)
        y = half * (2 * row + 1) + jitter.randint(-6, 6)
        _draw(draw, shape, x, y, radius=jitter.randint(36, 44))
    return canvas.reduce(_OVERSAMPLING)


def _draw(draw: ImageDraw.ImageDraw, shape: Shape, x: int, y: int, radius: int) -> None:
    """Draws one shape around (x, y), in pixels of the oversampled canvas."""
    color = COLORS[shape.color]
    if shape.kind == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    elif shape.kind == "square":
        side = radius * 9 // 10
        draw.rectangle((x - side, y - side, x + side, y + side), fill=color)
    else:
        draw.polygon(
            ((x, y - radius), (x - radius, y + radius), (x + radius, y + radius)), fill=color
        )
