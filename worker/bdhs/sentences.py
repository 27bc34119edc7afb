"""Where sentences begin and end. The splitter is sentencex, which loses no character.

The paper completes a sentence "up to the first full stop"; read here as the end of the sentence
as the same splitter sees it, so that "3.5" and "Dr. Smith" end nothing.
"""

from dataclasses import dataclass
from typing import cast

from sentencex import segment  # type: ignore[import-untyped]

LANGUAGE = "en"
"""sentencex's rules for English; full stops of other scripts end sentences under them, too."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """Characters `start` to `end` (exclusive) of a text, without the white space around them."""

    start: int
    end: int


def split(text: str) -> list[Sentence]:
    """The sentences of a text, in order; what lies between them is white space."""
    sentences: list[Sentence] = []
    position = 0
    for piece in _segments(text):
        body = piece.strip()
        if body:
            start = position + piece.index(body[0])
            sentences.append(Sentence(start, start + len(body)))
        position += len(piece)
    return sentences


def sentence_end(prefix: str, continuation: str) -> int | None:
    """How many characters of `continuation` finish the sentence that `prefix` begins.

    None while the sentence may go on: a full stop ends it only once something stands behind it
    ("3." may become "3.5"). The white space after the sentence does not count.
    """
    text = prefix + continuation
    position = 0
    for piece in _segments(text):
        position += len(piece)
        end = len(text[:position].rstrip())
        if end > len(prefix) and position < len(text):
            return end - len(prefix)
    return None


def _segments(text: str) -> list[str]:
    return cast(list[str], segment(LANGUAGE, text)) if text else []
