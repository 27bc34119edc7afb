"""How a rejected response came about: what was drawn and what was written, step by step.

So that anyone can check a pair, and make it again.
"""

from typing import Any, cast

from pydantic import model_validator

from service.schemas.base import Model


class WeightSpan(Model):
    """Tokens of a response that one version of the weights wrote."""

    start: int
    """Index of the first."""
    end: int
    """Index after the last."""
    version: int
    """0 is the model that the worker was started with."""


class ImageView(Model):
    """A grid of image tokens that covers the picture, or one tile of it, row by row.

    A family may look at the picture more than once (LLaVA-NeXT: the thumbnail, then all tiles as
    one grid; InternVL: each tile, then the thumbnail).
    """

    start: int
    """Index of the grid's first image token."""
    rows: int
    """Image tokens from top to bottom."""
    columns: int
    """Image tokens from left to right."""
    newline: bool
    """Each row is followed by one image token that stands for no patch."""
    tile_rows: int = 1
    """Into how many rows of equal tiles the picture was cut."""
    tile_columns: int = 1
    """Into how many columns."""
    tile_row: int = 0
    """Row of the tile that this grid covers."""
    tile_column: int = 0
    """Column of that tile."""


class ImageTrace(Model):
    """One image of the prompt, as the model sees it when nothing is hidden."""

    tokens: int
    """k, the number of vectors that it is encoded into."""
    views: list[ImageView]
    """Where they lie in the picture; empty: not known for this family."""


class CorruptionTrace(Model):
    """How one image was spoilt in one iteration."""

    kept: list[int]
    """Indices of the image tokens left visible, ascending; may be empty."""
    noise_steps: int = 0
    """N of the diffusion schedule; 0: no noise."""
    noise_seed: int | None = None
    """Of the noise; null: none."""


class SentenceTrace(Model):
    """One sentence of the reference, cut and completed anew."""

    prefix: str
    """What stood before the completion, of this sentence (after a swap)."""
    completion: str
    """What the model wrote."""
    swapped: bool
    """A leading yes or no was swapped for its counterpart."""
    finish_reason: str
    """`sentence` (its end was seen), `stop` (end of sequence) or `length`."""
    seed: int
    """The sampler's."""
    thrown_away: int = 0
    """Tokens of look-ahead, the last ones: they showed the sentence to have ended, and hold nothing
    of `completion`."""
    weight_versions: list[WeightSpan]
    """Who wrote the completion."""
    prompt_token_ids: list[int] | None = None
    """As the engine saw them, the image placeholder once per kept token (`trace` = full)."""
    completion_token_ids: list[int] | None = None
    """As the engine wrote them (`trace` = full)."""


class IterationTrace(Model):
    """One drawing of the whole answer."""

    guided: bool
    """By the reference's sentences; false: written freely."""
    images: list[CorruptionTrace]
    """How each image of the prompt was spoilt, in the prompt's order."""
    sentences: list[SentenceTrace]
    """In order."""
    text: str
    """The whole answer."""
    similarity: float
    """Cosine similarity to the reference, from -1 to 1."""

    @model_validator(mode="before")
    @classmethod
    def _of_one_image(cls, data: Any) -> Any:
        """Traces stored before there were several images."""
        if isinstance(data, dict) and "images" not in data and "kept" in data:
            trace: dict[str, Any] = {**data}
            names = trace.keys() & CorruptionTrace.model_fields
            image = {name: trace.pop(name) for name in names}
            return trace | {"images": [image]}
        return cast(Any, data)


class BdhsTrace(Model):
    """How a rejected response of BDHS came about."""

    images: list[ImageTrace]
    """The prompt's, in order."""
    iterations: list[IterationTrace]
    """In order; the last is the one that was taken."""

    @model_validator(mode="before")
    @classmethod
    def _of_one_image(cls, data: Any) -> Any:
        """Traces stored before there were several images."""
        if isinstance(data, dict) and "images" not in data and "image_tokens" in data:
            trace: dict[str, Any] = {**data}
            image = {"tokens": trace.pop("image_tokens"), "views": trace.pop("image_views")}
            return trace | {"images": [image]}
        return cast(Any, data)
