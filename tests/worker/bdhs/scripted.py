"""A policy that says what the test wrote, and remembers what it was asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.schemas import ImageTrace, ImageView, WeightSpan
from worker.bdhs.corruption import ImageCorruption
from worker.bdhs.policy import Completion, SentenceEnd


@dataclass(frozen=True)
class Asked:
    given: str
    """The answer up to the cut."""
    answer: str
    corruptions: Sequence[ImageCorruption]
    seed: int
    guided: bool

    @property
    def corruption(self) -> ImageCorruption:
        """Of the only image."""
        [corruption] = self.corruptions
        return corruption


@dataclass
class ScriptedPolicy:
    """Says `say(given)`, up to the end of the sentence where it is asked to stop there."""

    say: Callable[[str], str]
    image_tokens: Sequence[int] = (36,)
    """k, of each image."""
    asked: list[Asked] = field(default_factory=list)

    @property
    def images(self) -> list[ImageTrace]:
        views = [ImageView(start=0, rows=6, columns=6, newline=False)]
        return [ImageTrace(tokens=k, views=views if k == 36 else []) for k in self.image_tokens]

    def token_ends(self, answer: str) -> range:
        return range(1, len(answer) + 1)

    async def complete(
        self,
        answer: str,
        cut: int,
        *,
        corruptions: Sequence[ImageCorruption],
        seed: int,
        sentence_end: SentenceEnd | None,
    ) -> Completion:
        given = answer[:cut]
        self.asked.append(Asked(given, answer, corruptions, seed, sentence_end is not None))
        text = self.say(given)
        end = sentence_end(text) if sentence_end else None
        return Completion(
            text=text[:end],
            finish_reason="stop" if end is None else "sentence",
            prompt_token_ids=[],
            token_ids=list(text.encode()),
            weight_versions=[WeightSpan(start=0, end=len(text), version=7)],
        )

    async def predict(self, answer: str, *, corruptions: Sequence[ImageCorruption]) -> Completion:
        self.asked.append(Asked(answer, answer, corruptions, seed=0, guided=True))
        text = self.say(answer)
        return Completion(
            text=text,
            finish_reason="length",
            prompt_token_ids=[],
            token_ids=list(text.encode()),
            weight_versions=[WeightSpan(start=0, end=len(text), version=7)],
        )
