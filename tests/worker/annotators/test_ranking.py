"""From comparisons to a pair."""

from collections.abc import Callable
from typing import Any, Literal

import pytest

from service.annotator import Case, Choice, Verdict
from service.schemas import Annotation, Outcome
from tests.worker.annotators.test_prompt import case
from worker.annotators.function import FunctionAnnotator
from worker.annotators.ranking import MAX_VERDICT_CHARACTERS, rank_responses


async def ranked(
    judge: Callable[[Case], Any],
    responses: list[str],
    *,
    orders: Literal["both", "random"] = "both",
    seed: int = 0,
) -> tuple[Annotation, Outcome]:
    return await rank_responses(
        FunctionAnnotator(judge), case(), responses, orders=orders, seed=seed, name="a", judge="b"
    )


def longer(case: Case) -> Verdict:
    a, b = len(case.first), len(case.second)
    return Verdict("first" if a > b else "second" if b > a else "tie")


async def test_of_two_the_winner_is_chosen() -> None:
    annotation, outcome = await ranked(longer, ["ab", "abc"])
    assert (annotation.chosen, annotation.rejected, outcome) == (1, 0, "pair")
    seen = [(j.first, j.second, j.choice) for j in annotation.judgements]
    assert seen == [(0, 1, "second"), (1, 0, "first")]


async def test_of_many_the_best_stands_against_the_worst() -> None:
    annotation, _ = await ranked(longer, ["abc", "a", "abcd", "ab", "abcd"])
    assert (annotation.chosen, annotation.rejected) == (2, 1)
    # Nine of the ten twos, in both orders: equal texts are a tie whoever judges.
    assert len(annotation.judgements) == 18


async def test_a_circle_still_gives_a_comparison_that_was_won() -> None:
    async def circle(case: Case) -> Verdict:
        beats = {("r", "s"), ("s", "p"), ("p", "r")}
        return Verdict("first" if (case.first, case.second) in beats else "second")

    annotation, _ = await ranked(circle, ["r", "s", "p"])
    assert (annotation.chosen, annotation.rejected) == (0, 1)


@pytest.mark.parametrize(
    ("choices", "outcome"),
    [
        (("first", "first"), "tie"),  # it likes whatever stands first
        (("second", "tie"), "tie"),
        (("tie", "tie"), "tie"),
        (("first", "unreadable"), "unreadable"),
        (("unreadable", "unreadable"), "unreadable"),
    ],
)
async def test_what_is_not_decided_alike_in_both_orders_makes_no_pair(
    choices: tuple[Choice, Choice], outcome: str
) -> None:
    def judge(case: Case) -> Verdict:
        return Verdict(choices[0] if case.first == "x" else choices[1])

    annotation, came_of_it = await ranked(judge, ["x", "y"])
    assert (came_of_it, annotation.chosen, annotation.rejected) == (outcome, None, None)


@pytest.mark.parametrize(
    ("responses", "outcome"),
    [
        (["the same", " the  same\n"], "same"),
        (["", "something"], "empty"),
        ([" ", "\u200b"], "empty"),
        (["the same", "", "the same"], "same"),
    ],
)
async def test_what_is_no_preference_is_put_before_nobody(
    responses: list[str], outcome: str
) -> None:
    def judge(case: Case) -> Verdict:
        raise AssertionError

    annotation, came_of_it = await ranked(judge, responses)
    assert (came_of_it, annotation.judgements) == (outcome, [])
    assert (annotation.chosen, annotation.rejected) == (None, None)


async def test_one_order_is_drawn_from_the_seed() -> None:
    orders = []
    for seed in range(12):
        annotation, _ = await ranked(longer, ["ab", "abc"], orders="random", seed=seed)
        [judgement] = annotation.judgements
        orders.append(judgement.first)
        assert (annotation.chosen, annotation.rejected) == (1, 0)
    assert {0, 1} == set(orders)
    again, _ = await ranked(longer, ["ab", "abc"], orders="random", seed=3)
    assert again.judgements[0].first == orders[3]


async def test_what_it_says_is_kept_up_to_a_bound() -> None:
    annotation, _ = await ranked(lambda _: Verdict("tie", "x" * 5000), ["a", "b"])
    assert [j.text for j in annotation.judgements] == ["x" * MAX_VERDICT_CHARACTERS] * 2
