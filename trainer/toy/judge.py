"""Reads what a model said about a scene, and says what of it is true.

The judge knows the scene, so its verdicts are exact where the text keeps to the world's language,
and it says when a text does not (`CaptionScore.well_formed`). Needs only the standard library.
"""

import re
from dataclasses import dataclass

from trainer.toy.world import CELLS, COLORS, KINDS, Scene, Shape

_COLOR = "|".join(COLORS)
_KIND = "|".join(KINDS)
_CELL = "|".join(CELLS)
_CLAIM = re.compile(
    rf"(?P<denied>\bno )?\b(?:(?P<color>{_COLOR}) )?(?P<kind>{_KIND})\b"
    rf"(?: in the (?P<cell>{_CELL})\b)?",
    re.IGNORECASE,
)
_SENTENCE = re.compile(rf"There is an? (?:{_COLOR}) (?:{_KIND}) in the (?:{_CELL})\.")
_YES_NO = re.compile(r"\s*(yes|no)\b", re.IGNORECASE)
_COLOR_WORD = re.compile(rf"\b(?:{_COLOR})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Claim:
    """A shape that a text says is there; None where the text leaves a part open."""

    kind: str
    color: str | None
    cell: int | None

    def fits(self, shape: Shape) -> bool:
        """Whether the shape is as claimed, in every part that the claim states."""
        return (
            self.kind == shape.kind
            and self.color in (None, shape.color)
            and self.cell in (None, shape.cell)
        )


@dataclass(frozen=True)
class CaptionScore:
    """How a caption compares with its scene, in counts that can be summed over captions."""

    claims: tuple[Claim, ...]
    """What the caption says is there, in order."""
    hallucinated: int
    """Claims that fit no shape of the scene: wrong kind, color or cell."""
    recalled: int
    """Shapes of the scene that some claim fits."""
    present: int
    """Shapes of the scene."""
    well_formed: bool
    """Whether the text is nothing but whole sentences of the form that captions have."""

    @property
    def precision(self) -> float:
        """Share of the claims that are true; 0 without a claim."""
        return 1 - self.hallucinated / len(self.claims) if self.claims else 0.0

    @property
    def recall(self) -> float:
        """Share of the shapes that were mentioned."""
        return self.recalled / self.present


def read_claims(text: str) -> tuple[Claim, ...]:
    """The shapes that a text says are there, in order; "no red circle" claims nothing."""
    claims: list[Claim] = []
    for match in _CLAIM.finditer(text):
        if match["denied"]:
            continue
        color, cell = match["color"], match["cell"]
        claims.append(
            Claim(
                kind=match["kind"].lower(),
                color=color.lower() if color else None,
                cell=CELLS.index(cell.lower()) if cell else None,
            )
        )
    return tuple(claims)


def score_caption(text: str, scene: Scene) -> CaptionScore:
    """Compares a caption with its scene."""
    claims = read_claims(text)
    return CaptionScore(
        claims=claims,
        hallucinated=sum(not any(claim.fits(shape) for shape in scene.shapes) for claim in claims),
        recalled=sum(any(claim.fits(shape) for claim in claims) for shape in scene.shapes),
        present=len(scene.shapes),
        well_formed=is_well_formed(text),
    )


def is_well_formed(text: str) -> bool:
    """Whether a text is one or more caption sentences, each whole, and nothing else."""
    return re.fullmatch(rf"{_SENTENCE.pattern}(?: {_SENTENCE.pattern})*", text.strip()) is not None


def read_yes_no(text: str) -> bool | None:
    """The verdict that an answer opens with; None where it opens with neither yes nor no."""
    match = _YES_NO.match(text)
    return match[1].lower() == "yes" if match else None


def read_color(text: str) -> str | None:
    """The first color that a text names, if any."""
    match = _COLOR_WORD.search(text)
    return match[0].lower() if match else None
