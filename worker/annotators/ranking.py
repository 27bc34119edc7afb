"""From comparisons of two to one pair: the best response against the worst."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Literal

from service.annotator import Case
from service.schemas import Annotation, Judgement
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
) -> Annotation:
    """Compares every two responses.

    A comparison is won if the annotator decides alike in both orders; in one order, drawn from
    `seed`, if it decides at all. The pair is the won comparison whose sides lie furthest apart in
    comparisons won minus lost: for two responses the winner and the other, for more the best
    against the worst. Of several alike, the first.
    """
    rng = random.Random(seed)
    asked: list[tuple[int, int]] = []
    for a, b in combinations(range(len(responses)), 2):
        if responses[a].strip() == responses[b].strip():
            continue  # a tie, whoever judges
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
    readable = all(j.choice != "unreadable" for j in judgements)
    return Annotation(
        annotator=name,
        judge=judge,
        judgements=judgements,
        outcome="pair" if pair else "tie" if readable else "unreadable",
        chosen=pair[0] if pair else None,
        rejected=pair[1] if pair else None,
    )


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
