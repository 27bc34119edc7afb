"""What BDHS asks of the policy."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.schemas import ImageTrace, WeightSpan
from worker.bdhs.corruption import ImageCorruption

SentenceEnd = Callable[[str], int | None]
"""Given the text generated so far: how much of it finishes the sentence, or None."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the policy wrote."""

    text: str
    finish_reason: str
    """`sentence` (its end was seen), `stop` (end of sequence) or `length`."""
    prompt_token_ids: Sequence[int]
    """As the engine saw them: the image placeholder once per kept token."""
    token_ids: Sequence[int]
    """All that were sampled: the end-of-sequence token and the look-ahead that showed a sentence
    to have ended are here, and not in `text`."""
    weight_versions: list[WeightSpan]
    thrown_away: int = 0
    """Of `token_ids`, the last ones: the look-ahead."""


class Policy(Protocol):
    """The policy, bound to one prompt, its images and one weight version."""

    @property
    def images(self) -> list[ImageTrace]:
        """The prompt's images, as it sees them when nothing is hidden."""
        ...

    def token_ends(self, answer: str) -> Collection[int]:
        """Character positions of `answer` at which one of its tokens ends."""
        ...

    async def complete(
        self,
        answer: str,
        cut: int,
        *,
        corruptions: Sequence[ImageCorruption],
        seed: int,
        sentence_end: SentenceEnd | None,
    ) -> Completion:
        """Go on after the first `cut` characters of `answer`, each image corrupted in its way.

        The part before the cut is tokenised as it is in the whole of `answer`. Stops at the end of
        sequence, at the request's `max_tokens`, or where `sentence_end` says so.
        """
        ...

    async def predict(self, answer: str, *, corruptions: Sequence[ImageCorruption]) -> Completion:
        """The likeliest token at every place of `answer`, each after the answer's true ones."""
        ...
