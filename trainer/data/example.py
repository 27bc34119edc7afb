"""What every layout is read into."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import JsonValue, ValidationError

from service.schemas import Message

SECOND_REJECTED = "dataset_rejected"
"""The key of a pair's `metadata` with what a data set rejected, where the pair's own rejected side
is the policy's: averaged DPO takes both."""

ImageSource = Path | bytes | str
"""A file, encoded bytes, or (until it was looked for) the name that a data set gives it."""


class InvalidDataset(Exception):
    """The data set as a whole cannot be read."""


BadRow = Literal["not JSON", "layout", "image not found", "image unreadable", "refused"]
"""Why a row cannot be used; `refused`: by the service."""

MAX_REASON_CHARACTERS = 500
"""What is said of a row. Rows may hold whole pictures as text."""


class ImageNotFound(ValueError):
    """No file has the name that a row gives."""


class ImageUnreadable(ValueError):
    """What a row gives is no picture."""


class InvalidRow(Exception):
    """One row cannot be used."""

    def __init__(self, place: str, reason: str, kind: BadRow = "layout") -> None:
        self.place = place
        self.reason = shortened(reason, MAX_REASON_CHARACTERS)
        self.kind: BadRow = kind
        super().__init__(f"{place}: {self.reason}")

    @staticmethod
    def of(place: str, error: ValueError, kind: BadRow = "layout") -> "InvalidRow":
        """The row at `place`, for an error that says what is wrong with it."""
        if isinstance(error, ImageNotFound):
            kind = "image not found"
        elif isinstance(error, ImageUnreadable):
            kind = "image unreadable"
        return InvalidRow(place, _reason(error), kind)


def _reason(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(str(e["msg"]).removeprefix("Value error, ") for e in error.errors())
    return str(error)


def shortened(text: str, characters: int) -> str:
    """A text's beginning, and how long it is, if it has more characters."""
    if len(text) <= characters:
        return text
    return f"{text[:characters]}… ({len(text)} characters)"


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
