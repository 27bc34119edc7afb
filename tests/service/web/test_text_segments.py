"""Text cut where the model wrote it."""

import pytest

from service.schemas import (
    Span,
)
from service.web.text_segments import TextSegment, text_segments


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], [TextSegment("abcdef", by_model=False)]),
        ([(0, 6)], [TextSegment("abcdef", by_model=True)]),
        ([(2, 2)], [TextSegment("abcdef", by_model=False)]),
        (
            [(4, 99), (1, 2)],
            [
                TextSegment("a", by_model=False),
                TextSegment("b", by_model=True),
                TextSegment("cd", by_model=False),
                TextSegment("ef", by_model=True),
            ],
        ),
        ([(0, 4), (2, 6)], [TextSegment("abcd", by_model=True), TextSegment("ef", by_model=True)]),
        ([(7, 9)], [TextSegment("abcdef", by_model=False)]),
    ],
)
def test_text_is_cut_at_the_spans(
    spans: list[tuple[int, int]], expected: list[TextSegment]
) -> None:
    assert text_segments("abcdef", [Span(start=start, end=end) for start, end in spans]) == expected
