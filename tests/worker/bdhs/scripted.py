"""A policy that says what the test wrote, and remembers what it was asked."""

from collections.abc import Callable
from dataclasses import dataclass, field

from service.schemas import ImageView, WeightSpan
from worker.bdhs.corruption import ImageCorruption
from worker.bdhs.policy import Completion, SentenceEnd


@dataclass(frozen=True)
class Asked:
    given: str
    """The answer up to the cut."""
    answer: str
    corruption: ImageCorruption
    seed: int
    guided: bool


@dataclass
class ScriptedPolicy:
    """Says `say(given)`, up to the end of the sentence where it is asked to stop there."""

    say: Callable[[str], str]
    image_tokens: int = 36
    asked: list[Asked] = field(default_factory=list)

    @property
    def image_views(self) -> list[ImageView]:
        return [ImageView(start=0, rows=6, columns=6, newline=False)]

    def token_ends(self, answer: str) -> range:
        return range(1, len(answer) + 1)

    async def complete(
        self,
        answer: str,
        cut: int,
        *,
        corruption: ImageCorruption,
        seed: int,
        sentence_end: SentenceEnd | None,
    ) -> Completion:
        given = answer[:cut]
        self.asked.append(Asked(given, answer, corruption, seed, sentence_end is not None))
        text = self.say(given)
        end = sentence_end(text) if sentence_end else None
        return Completion(
            text=text[:end],
            finish_reason="stop" if end is None else "sentence",
            prompt_token_ids=[],
            token_ids=list(text.encode()),
            weight_versions=[WeightSpan(start=0, end=len(text), version=7)],
        )

    async def predict(self, answer: str, *, corruption: ImageCorruption) -> Completion:
        self.asked.append(Asked(answer, answer, corruption, seed=0, guided=True))
        text = self.say(answer)
        return Completion(
            text=text,
            finish_reason="length",
            prompt_token_ids=[],
            token_ids=list(text.encode()),
            weight_versions=[WeightSpan(start=0, end=len(text), version=7)],
        )
