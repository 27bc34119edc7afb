"""A row of an optimizer step: a pair with its images; and where rows come from."""

from dataclasses import dataclass
from typing import Protocol

from service.schemas import Pair


@dataclass(frozen=True, slots=True)
class Row:
    """A pair with its images' bytes."""

    pair: Pair
    images: list[bytes]
    staleness: int | None
    """Weight versions that it lagged behind when it was leased; None: not policy-made."""
    weight: float = 1.0
    """Of its loss, where the mean over an optimizer step's rows is 1."""
    rejected_images: list[bytes] | None = None
    """Those of the rejected side, if it shows others; as many as `images`."""


class RowSource(Protocol):
    """Where the steps' rows come from, in the process that leases."""

    def draw(self, count: int) -> list[Row]:
        """The rows of so many pairs: one each, and then as often another of each, in the same
        order. Raises: Stopped."""
        ...
