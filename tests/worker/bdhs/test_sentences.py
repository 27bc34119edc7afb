"""Splitting, and knowing while it is generated that a sentence has ended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.bdhs.sentences import sentence_end, split


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat sits. A dog runs.", ["A cat sits.", "A dog runs."]),
        ("It is 3.5 m long. Yes.", ["It is 3.5 m long.", "Yes."]),
        ("Dr. Smith smiles. He waves.", ["Dr. Smith smiles.", "He waves."]),
        ("Really?! Yes. No stop at the end", ["Really?!", "Yes.", "No stop at the end"]),
        ('"He left." She stayed.', ['"He left."', "She stayed."]),
        ("1. a cup\n2. a plate", ["1. a cup", "2. a plate"]),
        ("One.\n\nTwo.", ["One.", "Two."]),
        ("一只猫。一只狗。", ["一只猫。", "一只狗。"]),
        ("Yes.", ["Yes."]),
        ("no", ["no"]),
        ("Nice 😀. Very nice.", ["Nice 😀.", "Very nice."]),
        ("  A cat.  ", ["A cat."]),
        ("", []),
        (" \n", []),
    ],
)
def test_split(text: str, expected: list[str]) -> None:
    assert [text[s.start : s.end] for s in split(text)] == expected


@given(st.text())
def test_nothing_is_lost_between_sentences(text: str) -> None:
    position = 0
    for sentence in split(text):
        assert not text[position : sentence.start].strip()
        assert sentence.start < sentence.end
        position = sentence.end
    assert not text[position:].strip()


@pytest.mark.parametrize(
    ("prefix", "written", "end"),
    [
        ("There is", " a red circle. And", len(" a red circle.")),
        ("There is", " a red circle.", None),  # "3." may become "3.5"
        ("It is 3", ".5 m long", None),
        ("It is 3", ".5 m long. So", len(".5 m long.")),
        ("Dr", ". Smith", None),
        ("", " Yes. No", len(" Yes.")),
        ("A list:", "\n1. one\n2. two", len("\n1. one")),
        ("There is a dog.", " It", None),  # nothing of the sentence has been written yet
        ("一只", "猫。一", len("猫。")),
        ("One", "\n\nTwo", None),
    ],
)
def test_sentence_end(prefix: str, written: str, end: int | None) -> None:
    assert sentence_end(prefix, written) == end


@given(prefix=st.text(max_size=40), written=st.text(max_size=40))
def test_the_end_lies_in_what_was_written(prefix: str, written: str) -> None:
    end = sentence_end(prefix, written)
    assert end is None or 0 < end < len(written)
