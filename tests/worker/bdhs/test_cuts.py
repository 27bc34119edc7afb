"""Cuts and yes/no swaps."""

from itertools import accumulate

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.bdhs.texts import SPACELESS, texts
from worker.bdhs.cuts import cut_points, leading_yes_no, swap_yes_no


@pytest.mark.parametrize(
    ("sentence", "prefixes"),
    [
        ("A cat sits.", ["", "A", "A cat"]),
        ("Yes.", [""]),
        ("Yes, it is .", ["", "Yes,", "Yes, it"]),
        ("一只猫。", ["", "一", "一只"]),
        ("It is 3.5 m.", ["", "It", "It is", "It is 3.5"]),
        ("?!", [""]),
        ("แมวนั่ง", ["", "แ", "แม", "แมว", "แมวนั่"]),
        ("ឆ្មានៅ", ["", "ឆ្មា"]),
        ("ແມວນັ່ງ", ["", "ແ", "ແມ", "ແມວ", "ແມວນັ່"]),
        ("ကျွန်ုပ်", ["", "ကျွ", "ကျွန်ု"]),
        ("\U00020000\U00020001\U00020002", ["", "\U00020000", "\U00020000\U00020001"]),
        ("ｶｷｸﾞ", ["", "ｶ", "ｶｷ"]),
        ("ケーキ one", ["", "ケ", "ケー", "ケーキ"]),
        ("Cafe\u0301 ouvert.", ["", "Cafe\u0301"]),
    ],
)
def test_cuts_fall_at_word_ends_and_leave_a_word(sentence: str, prefixes: list[str]) -> None:
    assert [sentence[:p] for p in cut_points(sentence)] == prefixes


@given(texts())
def test_cuts_of_any_text(sentence: str) -> None:
    points = cut_points(sentence)
    graphemes = list(accumulate(map(len, regex.findall(r"\X", sentence)), initial=0))
    assert set(points) <= set(graphemes), "none within a grapheme"
    assert points[0] == 0
    assert points == sorted(set(points))
    for point in points[1:]:
        assert any(c.isalnum() for c in sentence[point:])
        assert not sentence[point - 1].isspace()


@pytest.mark.parametrize("script", SPACELESS)
@given(data=st.data())
def test_scripts_without_spaces_are_cut_behind_every_letter(
    script: str, data: st.DataObject
) -> None:
    letters = st.text(st.sampled_from(SPACELESS[script]), min_size=2, max_size=12)
    sentence = data.draw(letters)
    graphemes = list(accumulate(map(len, regex.findall(r"\X", sentence)), initial=0))
    assert cut_points(sentence) == graphemes[:-1]


@pytest.mark.parametrize(
    ("sentence", "swapped"),
    [
        ("Yes, it is.", "No, it is."),
        ("no", "yes"),
        (" No. ", " Yes. "),
        ("yes it is", "no it is"),
    ],
)
def test_swap_keeps_case_and_all_else(sentence: str, swapped: str) -> None:
    assert swap_yes_no(sentence) == swapped
    assert swap_yes_no(swapped) == sentence


@pytest.mark.parametrize(
    "sentence", ["Nobody is there.", "Note it.", "Yesterday", "YES", "I say no"]
)
def test_what_is_no_answer_is_not_swapped(sentence: str) -> None:
    assert leading_yes_no(sentence) is None
