"""Annotators of the shapes world, for `POST /sample`: `toy` and `toy-self`.

The first knows the scene, which travels in the request's metadata (`prefstream feed toy` puts it
there). The second asks the policy about each claim of a response: self-rewarding for a model that
is too small to follow a judge's instructions.
"""

import asyncio
from typing import Any

from service.annotator import CannotJudge, Case, Choice, Verdict
from service.schemas import user_turn
from trainer.toy.judge import is_well_formed, read_claims, read_yes_no, score_caption
from trainer.toy.language import ask_object
from trainer.toy.world import Scene

Score = tuple[Any, ...]
"""Higher is better."""

ANSWER_TOKENS = 24
"""Of the policy's answer to a yes/no question."""


def by_scene(case: Case) -> Verdict:
    """Truth first, then help: of captions, the one with fewer false claims, then more of the
    shapes; of other answers, the right one. Broken sentences lose to whole ones."""
    try:
        metadata: Any = case.metadata
        scene = Scene.read(metadata["scene"])
        kind, reference = str(metadata["kind"]), str(metadata["reference"])
    except (KeyError, TypeError, ValueError) as error:
        raise CannotJudge(
            "the annotator `toy` needs `kind`, `scene` and `reference` in the request's metadata, "
            f"as `prefstream feed toy` sends them: {error!r}"
        ) from error

    def score(text: str) -> Score:
        if kind == "caption":
            caption = score_caption(text, scene)
            return (caption.well_formed, -caption.hallucinated, caption.recalled)
        if kind == "yes_no":
            return (read_yes_no(text) == read_yes_no(reference),)
        return (text.strip() == reference,)

    return _higher(score(case.first), score(case.second))


async def by_questions(case: Case) -> Verdict:
    """The response of whose claims the policy denies fewer when it is asked about each, and then
    confirms more; of answers that open with yes or no, the one that its own greedy answer bears
    out."""

    async def score(text: str) -> Score:
        said = read_yes_no(text)
        if said is not None:
            answer = await case.ask(case.conversation, max_tokens=ANSWER_TOKENS)
            return (said == read_yes_no(answer),)
        nouns = {(claim.kind, claim.color) for claim in read_claims(text)}
        asked = [
            user_turn(ask_object(*noun, present=True).prompt, 1) for noun in sorted(nouns, key=str)
        ]
        answers = await asyncio.gather(*(case.ask([q], max_tokens=ANSWER_TOKENS) for q in asked))
        verdicts = [read_yes_no(answer) for answer in answers]
        return (is_well_formed(text), -verdicts.count(False), verdicts.count(True))

    return _higher(await score(case.first), await score(case.second))


def _higher(first: Score, second: Score) -> Verdict:
    choice: Choice = "first" if first > second else "second" if second > first else "tie"
    return Verdict(choice, f"{first} against {second}")
