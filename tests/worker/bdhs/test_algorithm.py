"""Each step of the paper's algorithm, on a scripted policy."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from service.schemas import BdhsRequest
from tests.worker.bdhs.scripted import ScriptedPolicy
from worker.bdhs.algorithm import RejectedResponse, answer_cut, generate_rejected
from worker.bdhs.sentences import split

REFERENCE = "Yes, there is a dog. It sleeps on a red sofa.  A lamp stands behind it."


class Scores:
    """Similarities as the test wrote them, the last one for ever."""

    def __init__(self, scores: Iterable[float]):
        self.scores = list(scores)
        self.compared: list[tuple[str, str]] = []

    async def __call__(self, text: str, reference: str) -> float:
        self.compared.append((text, reference))
        return self.scores.pop(0) if len(self.scores) > 1 else self.scores[0]


async def run(
    policy: ScriptedPolicy,
    scores: Iterable[float] = (0.5,),
    *,
    seed: int = 3,
    reference: str = REFERENCE,
    **settings: object,
) -> RejectedResponse:
    request = BdhsRequest.model_validate(
        {"prompt": "What is there?", "images": ["x"], "reference": reference, **settings}
    )
    return await generate_rejected(request, seed, policy, Scores(scores))


def parrot() -> ScriptedPolicy:
    return ScriptedPolicy(say=lambda given: " something else. And more")


@pytest.mark.parametrize(
    ("named", "spoilt"), [(None, [True, True, True]), ([0, 2], [True, False, True])]
)
async def test_each_image_is_spoilt_by_its_own_draw(
    named: list[int] | None, spoilt: list[bool]
) -> None:
    policy = ScriptedPolicy(lambda given: " Something else.", image_tokens=(36, 20, 36))
    rejected = await run(
        policy,
        images=["sha256:1", "sha256:2", "sha256:1"],
        corrupt_images=named,
        corruption="attention+noise",
        rho=0.5,
    )
    [iteration] = rejected.trace.iterations
    assert [image.tokens for image in rejected.trace.images] == [36, 20, 36]
    assert all(asked.corruptions == policy.asked[0].corruptions for asked in policy.asked)
    drawn = [tuple(corruption.kept) for corruption in policy.asked[0].corruptions]
    assert [list(kept) for kept in drawn] == [image.kept for image in iteration.images]
    assert [len(kept) < k for kept, k in zip(drawn, (36, 20, 36), strict=True)] == spoilt
    assert [image.noise_steps > 0 for image in iteration.images] == spoilt
    assert drawn[0] != drawn[2]
    assert iteration.images[0].noise_seed != iteration.images[2].noise_seed


async def test_stops_at_the_first_response_that_differs() -> None:
    rejected = await run(parrot(), [0.99, 0.98, 0.969], max_iterations=5)
    assert [i.similarity for i in rejected.trace.iterations] == [0.99, 0.98, 0.969]
    assert all(i.guided for i in rejected.trace.iterations)
    assert rejected.similarity == 0.969


async def test_similarity_at_the_threshold_is_still_similar() -> None:
    rejected = await run(parrot(), [0.97, 0.1], similarity_threshold=0.97)
    assert len(rejected.trace.iterations) == 2


async def test_every_iteration_draws_mask_and_cuts_again() -> None:
    policy = parrot()
    await run(policy, [1.0], max_iterations=4, rho=0.5)
    rounds = [policy.asked[i : i + 3] for i in range(0, 9, 3)]
    assert len({tuple(sentences[0].corruption.kept) for sentences in rounds}) == 3
    assert len({tuple(a.given for a in sentences) for sentences in rounds}) == 3
    assert len({a.seed for a in policy.asked}) == len(policy.asked)


async def test_the_sentences_of_one_iteration_see_the_same_mask() -> None:
    policy = parrot()
    await run(policy, rho=0.5)
    assert len({tuple(a.corruption.kept) for a in policy.asked}) == 1


async def test_the_last_iteration_is_unguided_and_taken_as_it_is() -> None:
    policy = parrot()
    rejected = await run(policy, [1.0], max_iterations=3)
    last = rejected.trace.iterations[-1]
    assert [i.guided for i in rejected.trace.iterations] == [True, True, False]
    assert policy.asked[-1].given == ""
    assert not policy.asked[-1].guided
    assert rejected.text == "something else. And more"
    assert rejected.similarity == last.similarity == 1.0
    assert [(s.start, s.end) for s in rejected.spans] == [(0, len(rejected.text))]


async def test_a_single_iteration_is_guided() -> None:
    rejected = await run(parrot(), [1.0], max_iterations=1)
    assert [i.guided for i in rejected.trace.iterations] == [True]


async def test_without_guidance_every_iteration_generates_freely() -> None:
    policy = parrot()
    rejected = await run(policy, [1.0, 0.2], guidance="none")
    assert [i.guided for i in rejected.trace.iterations] == [False, False]
    assert all(a.given == "" for a in policy.asked)


async def test_every_sentence_follows_its_true_predecessors() -> None:
    """The context is the reference's own text, never what was generated before."""
    policy = parrot()
    for seed in range(50):
        await run(policy, seed=seed, swap_yes_no=False)
    places = split(REFERENCE)
    for index, asked in enumerate(policy.asked):
        place = places[index % len(places)]
        assert REFERENCE.startswith(asked.given)
        assert len(asked.given) < place.end
        before = places[index % len(places) - 1].end if index % len(places) else 0
        assert len(asked.given) >= before


async def test_all_sentences_are_asked_for_before_any_is_answered() -> None:
    """They are in the engine together, never one after another."""
    policy = parrot()
    waiting = 0

    class Gate(ScriptedPolicy):
        async def complete(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal waiting
            waiting += 1
            while waiting < 3:
                await __import__("asyncio").sleep(0)
            return await policy.complete(*args, **kwargs)

    await run(Gate(say=policy.say))
    assert waiting == 3


async def test_yes_no_is_swapped_half_of_the_time_before_the_cut() -> None:
    swaps = 0
    for seed in range(400):
        policy = parrot()
        rejected = await run(policy, seed=seed)
        first = rejected.trace.iterations[0].sentences[0]
        assert policy.asked[0].answer.startswith("No" if first.swapped else "Yes")
        # The other sentences still follow the true answer.
        assert all(a.answer.startswith("Yes") for a in policy.asked[1:])
        assert not any(s.swapped for s in rejected.trace.iterations[0].sentences[1:])
        swaps += first.swapped
    assert 150 < swaps < 250


async def test_no_swap_when_it_is_switched_off() -> None:
    for seed in range(20):
        rejected = await run(parrot(), seed=seed, swap_yes_no=False)
        assert not rejected.trace.iterations[0].sentences[0].swapped


async def test_the_same_seed_draws_the_same() -> None:
    first, second = parrot(), parrot()
    await run(first, [1.0], seed=11)
    await run(second, [1.0], seed=11)
    assert first.asked == second.asked
    third = parrot()
    await run(third, [1.0], seed=12)
    assert third.asked != first.asked


async def test_the_oldest_version_of_the_last_iteration_counts() -> None:
    assert (await run(parrot())).oldest_version == 7


async def test_noise_is_drawn_anew_and_hides_no_token() -> None:
    policy = parrot()
    rejected = await run(policy, [1.0, 0.1], corruption="noise", noise_steps=300)
    views = [policy.asked[0].corruption, policy.asked[-1].corruption]
    assert all(list(corruption.kept) == list(range(36)) for corruption in views)
    assert all(corruption.noise_steps == 300 for corruption in views)
    assert views[0].noise_seed != views[1].noise_seed
    assert [i.images[0].noise_seed for i in rejected.trace.iterations] == [
        v.noise_seed for v in views
    ]


async def test_both_corruptions_together() -> None:
    policy = parrot()
    await run(policy, corruption="attention+noise", rho=0.5)
    assert len(policy.asked[0].corruption.kept) < 36
    assert policy.asked[0].corruption.noise_steps == 500


async def test_token_guidance_predicts_the_whole_reference_and_is_never_unguided() -> None:
    policy = parrot()
    rejected = await run(
        policy, [1.0], guidance="token", corruption="noise", max_iterations=3, swap_yes_no=False
    )
    assert [a.given for a in policy.asked] == [REFERENCE] * 3
    assert len({a.corruption.noise_seed for a in policy.asked}) == 3
    assert [(s.start, s.end) for s in rejected.spans] == [(0, len(rejected.text))]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"guidance": "token"}, "goes with `corruption` = noise"),
        ({"guidance": "token", "corruption": "attention+noise"}, "goes with `corruption` = noise"),
        ({"corruption": "noise", "rho": 0.9}, "`rho` has no effect"),
        ({"noise_steps": 100}, "`noise_steps` has no effect"),
        ({"noise_steps": 0, "corruption": "noise"}, "greater than or equal to 1"),
        ({"noise_steps": 1001, "corruption": "noise"}, "less than or equal to 1000"),
    ],
)
async def test_settings_that_make_no_sense_are_refused(
    settings: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        await run(parrot(), **settings)


async def test_answer_guidance_goes_on_after_one_cut_of_the_whole_reference() -> None:
    policy = ScriptedPolicy(lambda given: " and so on. To the end. ")
    rejected = await run(policy, (0.99, 0.99, 0.5), guidance="answer", start_ratio=0.4)
    given = "Yes, there is a dog. It sleeps"  # 30 of 71 characters, of which each is a token here
    assert [asked.given for asked in policy.asked] == [given] * 3
    assert {asked.answer for asked in policy.asked} == {REFERENCE}
    assert not any(asked.guided for asked in policy.asked), "no end of a sentence stops it"
    assert len({asked.seed for asked in policy.asked}) == 3
    assert rejected.text == given + " and so on. To the end."
    assert [(span.start, span.end) for span in rejected.spans] == [(30, len(rejected.text))]
    assert [step.guided for step in rejected.trace.iterations] == [True] * 3


@given(
    reference=st.text(st.sampled_from("ab. ,\n红!"), min_size=1, max_size=60).filter(str.strip),
    ratio=st.floats(0, 1, exclude_max=True),
    every=st.integers(1, 4),
)
def test_an_answer_is_cut_near_the_share_and_something_is_left(
    reference: str, ratio: float, every: int
) -> None:
    ends = {*range(every, len(reference), every), len(reference)}
    cut = answer_cut(reference, ratio, ends)
    assert cut == 0 or (cut in ends and reference[cut:].strip())
    assert cut == 0 or not reference[cut - 1].isspace()


async def test_a_completion_joins_with_the_references_own_white_space() -> None:
    policy = ScriptedPolicy(say=lambda given: " cat.  ")
    rejected = await run(policy, reference="  One dog.\n\nTwo  dogs.\t", swap_yes_no=False)
    assert rejected.text.startswith("  ")
    assert "\n\n" in rejected.text
    assert rejected.text.endswith("cat.\t")


def outside(rejected: RejectedResponse) -> list[str]:
    """The pieces of the text that the policy did not write."""
    pieces, position = [], 0
    for span in rejected.spans:
        pieces.append(rejected.text[position : span.start])
        position = span.end
    return [*pieces, rejected.text[position:]]


words = st.text(alphabet="abc Yes,No.!?\n\t「。é😀3", min_size=1, max_size=60)


@given(reference=words.filter(str.strip), answer=st.text(max_size=30), seed=st.integers(0, 2**40))
async def test_for_any_text_what_the_policy_did_not_write_is_the_references(
    reference: str, answer: str, seed: int
) -> None:
    rejected = await run(
        ScriptedPolicy(say=lambda given: answer), seed=seed, reference=reference, max_iterations=1
    )
    position = 0
    for piece in outside(rejected):
        found = reference.find(piece, position)
        assert found >= 0, f"{piece!r} is not the reference's"
        position = found + len(piece)
    assert all(a.end <= b.start for a, b in zip(rejected.spans, rejected.spans[1:], strict=False))
    assert len(rejected.trace.iterations[0].sentences) == len(split(reference))
