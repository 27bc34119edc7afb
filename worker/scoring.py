"""How likely the policy finds an answer: one prefill, in which vLLM states each token's chance.

By default vLLM reads no prefix cache for a request that asks for these, because places that it does
not compute have none. Here only the answer's places count, so what stands before them, the picture
above all, is read if it is there; an answer that was itself found there is computed again.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from vllm import SamplingParams
from vllm.logprobs import Logprob
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput

from service.rendering import Answer, BadConversation, Prompt
from service.schemas import LogprobsRequest, Pair, ScoredResponse, View, ViewLogprobs
from worker.bdhs.corruption import ImageCorruption, draw_corruption
from worker.engine import DecodedImage, Engine, weight_spans
from worker.plugin.masking import Placeholder

SIDES = ("chosen", "rejected")

NO_PICTURE = ImageCorruption(())
"""Nothing of an image is seen."""


@dataclass(frozen=True, slots=True)
class Score:
    """Of an answer's tokens, in order."""

    logprobs: list[float]
    """Natural logarithms, before temperature and the like."""
    version: int
    """The weight version that they are of."""

    @property
    def sum(self) -> float:
        return sum(self.logprobs)

    @property
    def mean(self) -> float:
        return self.sum / len(self.logprobs)


async def score(
    engine: Engine,
    answer: Answer,
    images: Sequence[DecodedImage],
    *,
    corruptions: Sequence[ImageCorruption] = (),
    lora: LoRARequest | None,
) -> Score:
    """Log-probabilities of the answer's tokens, each after the true ones before it.

    Raises: PromptTooLong, RequestRefused, EngineDied.
    """
    output, places = await prompt_logprobs(
        engine, answer, images, corruptions=corruptions, lora=lora, alternatives=0
    )
    return Score(
        [place[token].logprob for token, place in zip(answer.token_ids, places, strict=True)],
        version_of(output, lora),
    )


async def score_all(
    engine: Engine,
    answers: Sequence[Answer],
    images: Sequence[DecodedImage],
    *,
    corruptions: Sequence[ImageCorruption] = (),
    lora: LoRARequest | None,
) -> list[Score]:
    """Of several answers to one prompt: the first before the others, which then find the prompt in
    the prefix cache. Raises: as `score`."""

    async def one(answer: Answer) -> Score:
        return await score(engine, answer, images, corruptions=corruptions, lora=lora)

    first, *others = answers
    return [await one(first), *await asyncio.gather(*map(one, others))]


async def prompt_logprobs(
    engine: Engine,
    answer: Answer,
    images: Sequence[DecodedImage],
    *,
    corruptions: Sequence[ImageCorruption],
    lora: LoRARequest | None,
    alternatives: int,
) -> tuple[RequestOutput, list[dict[int, Logprob]]]:
    """What vLLM says of each place of the answer: its token, and this many likelier ones.

    Raises: PromptTooLong, RequestRefused, EngineDied.
    """
    token_ids = [*answer.prompt_token_ids, *answer.token_ids]
    for read_cache in (True, False):
        params = SamplingParams(
            temperature=0,
            max_tokens=1,
            prompt_logprobs=alternatives,
            skip_reading_prefix_cache=not read_cache,
            detokenize=False,
        )
        output = await engine.generate(
            token_ids, params, images, corruptions=corruptions, lora=lora
        )
        # The images' tokens, in place of their placeholders, stand before the answer, and what is
        # said of a token comes of computing the one before it.
        before = len(output.prompt_token_ids or ()) - len(answer.token_ids)
        if (output.num_cached_tokens or 0) < before:
            break
    places = (output.prompt_logprobs or [])[before:]
    return output, [place for place in places if place is not None]


def version_of(output: RequestOutput, lora: LoRARequest | None) -> int:
    """One prefill: the version that wrote the token after it saw all before."""
    return weight_spans(output.outputs[0], lora)[0].version


async def score_responses(
    engine: Engine,
    request: LogprobsRequest,
    seed: int,
    images: Sequence[DecodedImage],
    lora: LoRARequest | None,
) -> list[ScoredResponse]:
    """Each of the request's responses under each of its views, all at once.

    The same request and seed hide the same tokens. Raises: BadConversation; as `score`.
    """
    renderer = engine.inputs.renderer
    prompt = renderer.prompt(request.conversation)
    answers = [
        _answer(prompt, response, request.ended, renderer.image_token_id)
        for response in request.responses
    ]
    placeholders = await asyncio.gather(*map(engine.placeholder, images))
    views = [
        _draw_view(Random(f"{seed}/{number}"), view, placeholders)
        for number, view in enumerate(request.views, start=1)
    ]

    async def under(corruptions: list[ImageCorruption]) -> list[Score]:
        return await score_all(engine, answers, images, corruptions=corruptions, lora=lora)

    by_answer = zip(*await asyncio.gather(*map(under, views)), strict=True)
    return [
        ScoredResponse(
            token_ids=answer.token_ids,
            views=[
                ViewLogprobs(
                    sum=one.sum,
                    mean=one.mean,
                    tokens=one.logprobs if request.tokens else None,
                    weight_version=one.version,
                )
                for one in of_answer
            ],
            image_dependence=_image_dependence(request.views, of_answer) if images else None,
        )
        for answer, of_answer in zip(answers, by_answer, strict=True)
    ]


def _answer(prompt: Prompt, response: str | list[int], ended: bool, image_token: int) -> Answer:
    """Raises: BadConversation."""
    if isinstance(response, str):
        return prompt.answer(response, ended=ended)
    if image_token in response:
        raise BadConversation(f"a response has token {image_token}, the placeholder of an image")
    return Answer(prompt.token_ids, response)


def _draw_view(
    rng: Random, view: View, placeholders: Sequence[Placeholder]
) -> list[ImageCorruption]:
    """What is seen of each image. Empty: all are whole."""
    if view.whole:
        return []
    return [
        draw_corruption(rng, image.image_tokens, rho=view.rho, noise_steps=view.noise_steps)
        for image in placeholders
    ]


def _image_dependence(views: Sequence[View], scores: Sequence[Score]) -> float | None:
    """Of the first whole view, and the first without a picture."""
    with_images = next((s for view, s in zip(views, scores, strict=True) if view.whole), None)
    without = next((s for view, s in zip(views, scores, strict=True) if view.rho == 1), None)
    return with_images.sum - without.sum if with_images and without else None


async def with_logps(
    engine: Engine, pair: Pair, images: Sequence[DecodedImage], lora: LoRARequest | None
) -> Pair:
    """The pair with `logps` and image dependence of both sides.

    What the engine said while it sampled a side is not computed again. Raises: as `score`.
    """
    answers = engine.inputs.renderer.pair_answers(pair)
    whole = [
        _sampled(pair, side, answer) or await score(engine, answer, images, lora=lora)
        for side, answer in zip(SIDES, answers, strict=True)
    ]
    said: dict[str, Any] = {"logps_version": min(one.version for one in whole)}
    for side, one in zip(SIDES, whole, strict=True):
        said[f"{side}_logps"] = one.sum
    if images:
        hidden = [NO_PICTURE] * len(images)
        blind = await score_all(engine, answers, images, corruptions=hidden, lora=lora)
        for side, one, without in zip(SIDES, whole, blind, strict=True):
            said[f"{side}_image_dependence"] = one.sum - without.sum
    return pair.model_copy(update=said)


def _sampled(pair: Pair, side: str, answer: Answer) -> Score | None:
    """What the engine said of a side while it sampled it; None: it did not."""
    logprobs: list[float] | None = getattr(pair, f"{side}_logprobs")
    version: int | None = getattr(pair, f"{side}_version")
    sampled: list[int] | None = getattr(pair, f"{side}_token_ids")
    if not logprobs or version is None or answer.token_ids != sampled:
        return None
    return Score(logprobs, version)


async def with_ref_logps(engine: Engine, pair: Pair, images: Sequence[DecodedImage]) -> Pair:
    """The pair with `ref_…_logps`: those of the model that the engine was started with, which it
    must still hold. Raises: as `score`."""
    answers = engine.inputs.renderer.pair_answers(pair)
    chosen, rejected = await score_all(engine, answers, images, lora=None)
    return pair.model_copy(
        update={"ref_chosen_logps": chosen.sum, "ref_rejected_logps": rejected.sum}
    )
