"""What every layout is read into."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from service.schemas import Message

SECOND_REJECTED = "dataset_rejected"
"""The key of a pair's `metadata` with what a data set rejected, where the pair's own rejected side
is the policy's: averaged DPO takes both."""

ImageSource = Path | bytes | str
"""A file, encoded bytes, or (until it was looked for) the name that a data set gives it."""


class InvalidDataset(Exception):
    """The data set as a whole cannot be read."""


class InvalidRow(Exception):
    """One row cannot be used."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = place
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Example:
    """A question about images, a trusted or preferred answer, and perhaps a worse one."""

    messages: list[Message]
    """The conversation, which ends with a user turn; image parts stand where the images belong."""
    images: tuple[ImageSource, ...]
    chosen: str
    """The preferred response y⁺; of instruction data, the reference."""
    rejected: str | None = None
    """The worse response y⁻; None: instruction data."""
    metadata: dict[str, JsonValue] = field(default_factory=dict)
    """What the data set says beside it, to travel with the pair."""
    key: str = ""
    """Its place in the data set: the row's number and, within the row, its own."""
    place: str = ""
    """The same for people: file and row."""


class DatasetFormat(Protocol):
    """A module that knows how one data set is laid out."""

    @staticmethod
    def matches(row: dict[str, Any]) -> bool:
        """Whether a row looks like one of this layout."""
        ...

    @staticmethod
    def examples(row: dict[str, Any]) -> Iterator[Example]:
        """What is in a row: one example, several (a turn each), or none (it states no preference).

        Raises: ValueError, KeyError, TypeError and the like, if it is not as it should be.
        """
        ...
