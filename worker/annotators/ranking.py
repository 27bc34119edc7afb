"""From comparisons of two to one pair: the best response against the worst."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

from service.annotator import Case
from service.schemas import Annotation, Judgement, Outcome, outcome_of_texts
from worker.annotators.annotator import Annotator

MAX_VERDICT_CHARACTERS = 2000
"""Characters kept of each thing that an annotator said."""


async def rank_responses(
    annotator: Annotator,
    case: Case,
    responses: Sequence[str],
    *,
    orders: Literal["both", "random"],
    seed: int,
    name: str,
    judge: str,
) -> tuple[Annotation, Outcome]:
    """Compares every two responses that differ and say something; and what came of it.

    A comparison is won if the annotator decides alike in both orders; in one order, drawn from
    `seed`, if it decides at all. The pair is the won comparison whose sides lie furthest apart in
    comparisons won minus lost: for two responses the winner and the other, for more the best
    against the worst. Of several alike, the first.
    """
    rng = random.Random(seed)
    asked: list[tuple[int, int]] = []
    undecidable: set[Outcome] = set()
    for a, b in combinations(range(len(responses)), 2):
        outcome = outcome_of_texts(responses[a], responses[b])
        if outcome is not Outcome.pair:
            undecidable.add(outcome)  # whoever judges
            continue
        both = [(a, b), (b, a)]
        asked += both if orders == "both" else [rng.choice(both)]

    async def judgement(first: int, second: int) -> Judgement:
        verdict = await annotator.compare(
            replace(case, first=responses[first], second=responses[second])
        )
        text = verdict.text[:MAX_VERDICT_CHARACTERS]
        return Judgement(first=first, second=second, choice=verdict.choice, text=text)

    judgements = await asyncio.gather(*(judgement(*two) for two in asked))
    won = _won(judgements)
    score = [0] * len(responses)
    for better, worse in won:
        score[better] += 1
        score[worse] -= 1
    pair = max(won, key=lambda two: score[two[0]] - score[two[1]], default=None)
    annotation = Annotation(
        annotator=name,
        judge=judge,
        judgements=judgements,
        chosen=pair[0] if pair else None,
        rejected=pair[1] if pair else None,
    )
    if pair:
        return annotation, Outcome.pair
    if not asked:  # of responses that are the same, and others that are empty: the former
        return annotation, min(undecidable, key=[Outcome.same, Outcome.empty].index)
    readable = all(j.choice != "unreadable" for j in judgements)
    return annotation, Outcome.tie if readable else Outcome.unreadable


def _won(judgements: Sequence[Judgement]) -> list[tuple[int, int]]:
    """Winner and loser of each comparison that was decided, in order."""
    winners: dict[frozenset[int], set[int | None]] = {}
    for judgement in judgements:
        winner = {"first": judgement.first, "second": judgement.second}.get(judgement.choice)
        winners.setdefault(frozenset((judgement.first, judgement.second)), set()).add(winner)
    won: list[tuple[int, int]] = []
    for two, said in winners.items():
        [winner, *others] = said
        if winner is not None and not others:
            [loser] = two - {winner}
            won.append((winner, loser))
    return won
