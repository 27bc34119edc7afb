"""The paper's algorithm: draw, complete, compare, draw again.

For i = 1 … N: draw a mask; when N > 1 and i = N, generate the whole response freely and take it;
otherwise complete every sentence of the reference from a random cut, after its true predecessors,
all at once; stop when the joined response is less similar to the reference than ε_s.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from random import Random

from service.schemas import (
    BdhsRequest,
    BdhsTrace,
    CorruptionTrace,
    IterationTrace,
    SentenceTrace,
    Span,
)
from worker.bdhs import cuts, sentences
from worker.bdhs.corruption import ImageCorruption, draw_corruption
from worker.bdhs.policy import Completion, Policy

Similarity = Callable[[str, str], Awaitable[float]]
"""Cosine similarity of two texts' embeddings, in [-1, 1]."""


@dataclass(frozen=True, slots=True)
class RejectedResponse:
    """A rejected response and how it was made."""

    guidance: str
    """The request's."""
    text: str
    spans: list[Span]
    """What the policy wrote; the text outside is the reference's own, byte for byte."""
    trace: BdhsTrace

    @property
    def token_ids(self) -> list[int] | None:
        """Those that the policy wrote, as it sampled them, if it did so in one go; or else None."""
        taken = self.trace.iterations[-1]
        in_one_go = not taken.guided or self.guidance == "answer"
        return taken.sentences[-1].completion_token_ids if in_one_go else None

    @property
    def finish_reason(self) -> str:
        """How its last sentence ended."""
        return self.trace.iterations[-1].sentences[-1].finish_reason

    @property
    def similarity(self) -> float:
        return self.trace.iterations[-1].similarity

    @property
    def oldest_version(self) -> int:
        """The oldest weight version that wrote a token of the text."""
        spans = [w for s in self.trace.iterations[-1].sentences for w in s.weight_versions]
        return min(span.version for span in spans)


async def generate_rejected(
    request: BdhsRequest, seed: int, policy: Policy, similarity: Similarity
) -> RejectedResponse:
    """Run BDHS for one reference, with the full trace.

    The same request, seed and policy draw the same masks, swaps, cuts and sampling seeds.
    """
    iterations: list[IterationTrace] = []
    while True:
        number = len(iterations) + 1
        rng = Random(f"{seed}/{number}")
        last = number == request.max_iterations
        corruptions = _draw_corruptions(request, rng, policy)
        guidance = request.guidance
        if guidance == "sentence" and last and number > 1:
            guidance = "none"
        match guidance:
            case "sentence":
                written = await _complete_sentences(request, rng, policy, corruptions)
            case "answer":
                written = await _complete_answer(request, rng, policy, corruptions)
            case "token":
                written = await _predict_tokens(request, policy, corruptions)
            case "none":
                written = await _generate_freely(rng, policy, corruptions)
        text, spans, traces = written
        score = await similarity(text, request.reference)
        iterations.append(
            IterationTrace(
                guided=guidance != "none",
                images=[
                    CorruptionTrace(
                        kept=list(corruption.kept),
                        noise_steps=corruption.noise_steps,
                        noise_seed=corruption.noise_seed,
                    )
                    for corruption in corruptions
                ],
                sentences=traces,
                text=text,
                similarity=score,
            )
        )
        if last or score < request.similarity_threshold:
            trace = BdhsTrace(images=policy.images, iterations=iterations)
            return RejectedResponse(request.guidance, text, spans, trace)


def _draw_corruptions(request: BdhsRequest, rng: Random, policy: Policy) -> list[ImageCorruption]:
    """Of each image, which of its tokens stay, and which noise."""
    return [
        draw_corruption(
            rng,
            image.tokens,
            rho=request.rho if request.hides_tokens else 0.0,
            noise_steps=request.noise_steps if request.adds_noise else 0,
        )
        if request.corrupt_images is None or index in request.corrupt_images
        else ImageCorruption(range(image.tokens))
        for index, image in enumerate(policy.images)
    ]


@dataclass(frozen=True, slots=True)
class _Cut:
    """A sentence of the reference, perhaps swapped, and where it was cut."""

    place: sentences.Sentence
    text: str
    swapped: bool
    at: int
    """Characters of `text` that are given to the policy."""
    seed: int


def _draw_cuts(request: BdhsRequest, rng: Random, policy: Policy) -> list[_Cut]:
    token_ends = policy.token_ends(request.reference)
    places = sentences.split(request.reference)
    return [_draw_cut(request, place, rng, policy, token_ends) for place in places]


def _draw_cut(
    request: BdhsRequest,
    place: sentences.Sentence,
    rng: Random,
    policy: Policy,
    token_ends: Collection[int],
) -> _Cut:
    """`token_ends`: of the reference as it is."""
    reference = request.reference
    text = reference[place.start : place.end]
    swapped = request.swap_yes_no and cuts.leading_yes_no(text) is not None and rng.random() < 0.5
    if swapped:
        text = cuts.swap_yes_no(text)
        token_ends = policy.token_ends(reference[: place.start] + text + reference[place.end :])
    points = [p for p in cuts.cut_points(text) if p == 0 or place.start + p in token_ends]
    return _Cut(place, text, swapped, at=rng.choice(points), seed=rng.getrandbits(62))


async def _complete_sentences(
    request: BdhsRequest, rng: Random, policy: Policy, corruptions: list[ImageCorruption]
) -> tuple[str, list[Span], list[SentenceTrace]]:
    """Every sentence from its own cut, each after the *true* sentences before it, all at once."""
    reference = request.reference
    # Off the event loop: of a long reference this takes a while, in which leases are renewed.
    drawn = await asyncio.to_thread(_draw_cuts, request, rng, policy)

    async def complete(index: int, cut: _Cut) -> Completion:
        # A sentence that is cut at its start goes on from the end of the one before it.
        before = drawn[index - 1].place.end if index else 0
        given = cut.text[: cut.at]
        return await policy.complete(
            reference[: cut.place.start] + cut.text + reference[cut.place.end :],
            cut.place.start + cut.at if cut.at else before,
            corruptions=corruptions,
            seed=cut.seed,
            sentence_end=lambda generated: sentences.sentence_end(given, generated),
        )

    tasks = [asyncio.create_task(complete(i, cut)) for i, cut in enumerate(drawn)]
    try:
        completions = await asyncio.gather(*tasks)
    finally:
        for task in tasks:  # when one failed, the others' work is of no use
            task.cancel()
    text, spans = _join(reference, drawn, completions)
    traces = [
        _trace(completion, cut.seed, prefix=cut.text[: cut.at], swapped=cut.swapped)
        for cut, completion in zip(drawn, completions, strict=True)
    ]
    return text, spans, traces


def _join(
    reference: str, drawn: list[_Cut], completions: list[Completion]
) -> tuple[str, list[Span]]:
    """The sentences with the reference's own white space between them, and who wrote what."""
    text = ""
    spans: list[Span] = []
    copied = 0
    for cut, completion in zip(drawn, completions, strict=True):
        text += reference[copied : cut.place.start]
        copied = cut.place.end
        start = len(text)
        given = cut.text[: cut.at]
        written = completion.text.rstrip() if given else completion.text.strip()
        text += given + written
        if cut.swapped and given:
            word = cuts.leading_yes_no(cut.text)
            assert word is not None  # swapped sentences start with one
            spans.append(Span(start=start, end=start + len(word)))
        spans.append(Span(start=start + len(given), end=len(text)))
    return text + reference[copied:], spans


async def _complete_answer(
    request: BdhsRequest, rng: Random, policy: Policy, corruptions: list[ImageCorruption]
) -> tuple[str, list[Span], list[SentenceTrace]]:
    """The reference up to one cut, and all the rest anew."""
    reference = request.reference
    cut = await asyncio.to_thread(
        lambda: answer_cut(reference, request.start_ratio, policy.token_ends(reference))
    )
    seed = rng.getrandbits(62)
    completion = await policy.complete(
        reference, cut, corruptions=corruptions, seed=seed, sentence_end=None
    )
    prefix = reference[:cut]
    text = (prefix + completion.text).rstrip()
    spans = [Span(start=min(cut, len(text)), end=len(text))]
    return (
        text + reference[len(reference.rstrip()) :],
        spans,
        [_trace(completion, seed, prefix=prefix)],
    )


def answer_cut(reference: str, start_ratio: float, token_ends: Collection[int]) -> int:
    """Characters of the reference that are given: up to the word end that is nearest to this share
    of its tokens, the earlier of two. Something is left to complete."""
    ends = sorted(token_ends)
    points = [p for p in cuts.cut_points(reference) if p == 0 or p in token_ends]
    return min(points, key=lambda p: abs(bisect_right(ends, p) - start_ratio * len(ends)))


async def _generate_freely(
    rng: Random, policy: Policy, corruptions: list[ImageCorruption]
) -> tuple[str, list[Span], list[SentenceTrace]]:
    seed = rng.getrandbits(62)
    completion = await policy.complete("", 0, corruptions=corruptions, seed=seed, sentence_end=None)
    return _written_whole(completion, seed)


async def _predict_tokens(
    request: BdhsRequest, policy: Policy, corruptions: list[ImageCorruption]
) -> tuple[str, list[Span], list[SentenceTrace]]:
    """POVID's distortion: nothing is sampled, so the corruption is all that is drawn."""
    return _written_whole(await policy.predict(request.reference, corruptions=corruptions), seed=0)


def _written_whole(
    completion: Completion, seed: int
) -> tuple[str, list[Span], list[SentenceTrace]]:
    text = completion.text.strip()
    return text, [Span(start=0, end=len(text))], [_trace(completion, seed)]


def _trace(
    completion: Completion, seed: int, *, prefix: str = "", swapped: bool = False
) -> SentenceTrace:
    return SentenceTrace(
        prefix=prefix,
        completion=completion.text,
        swapped=swapped,
        finish_reason=completion.finish_reason,
        seed=seed,
        thrown_away=completion.thrown_away,
        weight_versions=completion.weight_versions,
        prompt_token_ids=list(completion.prompt_token_ids),
        completion_token_ids=list(completion.token_ids),
    )
