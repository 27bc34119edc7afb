"""A policy that writes the reference word for word gives it back, byte for byte: from any cut, and
in tokens of any length."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.schemas import BdhsRequest, ImageTrace, WeightSpan, visible
from tests.worker.bdhs.texts import texts, token_splits
from worker.bdhs.algorithm import generate_rejected
from worker.bdhs.corruption import ImageCorruption
from worker.bdhs.cuts import cut_points
from worker.bdhs.policy import Completion, SentenceEnd
from worker.bdhs.sentences import sentence_end, split


def written(given: str, rest: str, grown: Sequence[str]) -> str:
    """What is taken of a policy that writes `rest` in these steps."""
    for text in grown:
        end = sentence_end(given, text)
        if end is not None:
            assert sentence_end(given, rest) == end, "as in the whole text"
            return text[:end]
    return rest


@given(st.data())
def test_every_sentence_comes_back_from_every_cut(data: st.DataObject) -> None:
    reference = data.draw(texts())
    before = 0
    for place in split(reference):
        sentence = reference[place.start : place.end]
        for cut in cut_points(sentence):
            rest = reference[place.start + cut if cut else before :]
            taken = written(sentence[:cut], rest, data.draw(token_splits(rest)))
            assert sentence[:cut] + (taken.rstrip() if cut else taken.strip()) == sentence
        before = place.end


@given(texts(max_words=40))
@example("1. **Cup**: It is red.\r\n2. **Plate**: It is blue.\r\n")
@example("“真的吗？”他说。「好。」我说。")
def test_letter_by_letter_a_text_is_split_as_a_whole(reference: str) -> None:
    ends: list[int] = []
    while True:
        start = ends[-1] if ends else 0
        rest = reference[start:]
        grown = (sentence_end("", rest[:length]) for length in range(1, len(rest) + 1))
        end = next((end for end in grown if end is not None), None)
        if end is None:
            break
        ends.append(start + end)
    places = split(reference)
    if reference[ends[-1] if ends else 0 :].strip():
        ends.append(len(reference.rstrip()))
    assert [place.end for place in places] == ends


@dataclass
class Echo:
    """Writes what stands in the reference behind what it is given, some characters at a time."""

    reference: str
    step: int
    images = (ImageTrace(tokens=4, views=[]),)

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
        rest, end = self.reference[cut:], None
        for length in range(self.step, len(rest) + self.step, self.step):
            end = sentence_end(rest[:length]) if sentence_end else None
            if end is not None:
                break
        return Completion(
            text=rest[:end],
            finish_reason="stop" if end is None else "sentence",
            prompt_token_ids=[],
            token_ids=[],
            weight_versions=[WeightSpan(start=0, end=0, version=0)],
        )

    async def predict(self, answer: str, *, corruptions: Sequence[ImageCorruption]) -> Completion:
        raise NotImplementedError


async def zero(text: str, reference: str) -> float:
    return 0.0


@pytest.mark.parametrize("guidance", ["sentence", "answer"])
@given(data=st.data())
async def test_the_rejected_response_is_the_reference(guidance: str, data: st.DataObject) -> None:
    reference = data.draw(texts(max_words=40).filter(visible))
    request = BdhsRequest.model_validate(
        {
            "prompt": "?",
            "images": ["x"],
            "reference": reference,
            "guidance": guidance,
            "swap_yes_no": False,
        }
    )
    policy = Echo(reference, step=data.draw(st.integers(1, 7)))
    seed = data.draw(st.integers(0, 999))
    rejected = await generate_rejected(request, seed, policy, zero)  # pyright: ignore[reportArgumentType]
    assert rejected.text == reference
