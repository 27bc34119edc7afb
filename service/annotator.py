"""What an annotator is: whoever can say which of two responses is better.

An annotator in Python is an entry point of the group `prefstream.annotators`: a function of a
`Case` that returns a `Verdict`, plain or `async`. Workers find it by its name (docs/annotators.md).
"""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import JsonValue

from service.schemas import Message

GROUP = "prefstream.annotators"

Choice = Literal["first", "second", "tie", "unreadable"]


class CannotJudge(Exception):
    """The case lacks what this annotator needs: asking again would end the same way."""


class AnnotatorUnavailable(Exception):
    """The annotator cannot be reached now; later it may."""


class Ask(Protocol):
    def __call__(self, conversation: Sequence[Message], *, max_tokens: int) -> Awaitable[str]:
        """The policy's greedy answer, by the weights that wrote the responses. The conversation has
        the case's images, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """Two responses to one conversation."""

    conversation: Sequence[Message]
    images: Sequence[bytes]
    """As stored: PNG, JPEG or WEBP. `service.images.decode_rgb` makes pictures of them."""
    first: str
    second: str
    metadata: Mapping[str, JsonValue]
    """Of the request."""
    ask: Ask


@dataclass(frozen=True, slots=True)
class Verdict:
    choice: Choice
    text: str = ""
    """The reason, in the annotator's words."""
