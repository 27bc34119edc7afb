"""Which pairs a run takes."""

from typing import Self

from pydantic import Field, model_validator

from service.schemas.base import Model


class Bounds(Model):
    """A pair is taken if its figure lies between these, both included."""

    min: float | None = None
    """Least; null: any."""
    max: float | None = None
    """Greatest; null: any."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"`min` is above `max`: {self.min:g} and {self.max:g}")
        return self


class PairFilters(Model):
    """Bounds on a pair's figures. One on a figure that a pair lacks lets it pass: pairs of data
    sets have no similarity, and no tokens before a model has read them."""

    similarity: Bounds | None = None
    """Of the two sides, from -1 to 1."""
    chosen_tokens: Bounds | None = None
    """Tokens of the chosen side, with the one that ends it."""
    rejected_tokens: Bounds | None = None
    """Tokens of the rejected side, with the one that ends it."""
    token_ratio: Bounds | None = None
    """Tokens of the rejected side for each of the chosen."""
    chosen_repetition: Bounds | None = None
    """Share of the chosen side's runs of four words that were there before in it, from 0 to 1."""
    rejected_repetition: Bounds | None = None
    """As `chosen_repetition`, of the other side."""
    chosen_logps: Bounds | None = None
    """log p of the chosen side, for jobs with `logps`."""
    rejected_logps: Bounds | None = None
    """As `chosen_logps`, of the other side."""
    logps_margin: Bounds | None = None
    """log p of the chosen side less that of the rejected."""
    chosen_image_dependence: Bounds | None = None
    """log p of the chosen side with the images less that without them, for jobs with `logps`."""
    rejected_image_dependence: Bounds | None = None
    """As `chosen_image_dependence`, of the other side."""
    finish_reasons: list[str] | None = Field(default=None, min_length=1)
    """How a side that the policy wrote may have ended: some of `stop`, `sentence`, `length` (cut
    at `max_tokens`)."""
