"""A text as stretches of one origin: the reference's words, or the model's."""

from collections.abc import Iterable
from typing import NamedTuple

from service.schemas import Span


class TextSegment(NamedTuple):
    """A stretch of text of one origin."""

    text: str
    by_model: bool


def text_segments(text: str, spans: Iterable[Span]) -> list[TextSegment]:
    """`text` cut where the model's words begin and end. What spans claim twice is cut once."""
    result: list[TextSegment] = []
    at = 0
    for span in sorted(spans, key=lambda span: span.start):
        start, end = max(at, span.start), min(span.end, len(text))
        if start < end:
            result += [
                TextSegment(text[at:start], by_model=False),
                TextSegment(text[start:end], by_model=True),
            ]
            at = end
    result.append(TextSegment(text[at:], by_model=False))
    return [segment for segment in result if segment.text]
