"""A pair's figures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.pair_figures import EDGES, bucket, repetition
from service.schemas import PairFilters, outcome_of_texts


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0),
        ("There is a red circle.", 0),
        ("a b c d a b c d", 1 / 5),  # of five runs of four, the last is the first again
        ("A B, c d. a b c d!", 1 / 5),
        ("no no no no no no no no no no no no no", 9 / 10),
        ("红的圆红的圆红的圆", 1 / 2),
    ],
)
def test_repetition_is_the_share_of_runs_that_were_there_before(text: str, share: float) -> None:
    assert repetition(text) == pytest.approx(share)


@given(st.text(max_size=200))
def test_repetition_is_a_share(text: str) -> None:
    assert 0 <= repetition(text) < 1
    assert repetition(text * 2) >= repetition(text) - 1e-9


def test_a_value_on_an_edge_belongs_to_the_bar_that_it_ends() -> None:
    assert EDGES["similarity"][bucket("similarity", 0.97)] == 0.97
    assert bucket("similarity", 1.5) == len(EDGES["similarity"])


def test_every_figure_that_can_be_bounded_is_counted() -> None:
    assert set(PairFilters.model_fields) - {"finish_reasons"} <= set(EDGES)


@given(st.text(), st.text(" \n\t\u200b\u3000", max_size=4))
def test_white_space_makes_no_preference(text: str, space: str) -> None:
    assert outcome_of_texts(text, space.join(text)) != "pair"
    assert outcome_of_texts(text, space + text + space) != "pair"
