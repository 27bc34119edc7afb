"""How likely the policy finds an answer: one prefill, in which vLLM states each token's chance.

Prompt log-probabilities do not read vLLM's prefix cache: whatever stands before the answer, the
picture included, is computed for each answer and each view.
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
    params = SamplingParams(
        temperature=0, max_tokens=1, prompt_logprobs=alternatives, detokenize=False
    )
    token_ids = [*answer.prompt_token_ids, *answer.token_ids]
    output = await engine.generate(token_ids, params, images, corruptions=corruptions, lora=lora)
    # The images' tokens, in place of their placeholders, stand before the answer.
    places = (output.prompt_logprobs or [])[-len(answer.token_ids) :]
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
    scores = await asyncio.gather(
        *(
            score(engine, answer, images, corruptions=corruptions, lora=lora)
            for answer in answers
            for corruptions in views
        )
    )
    by_answer = [scores[start : start + len(views)] for start in range(0, len(scores), len(views))]
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
    whole = await asyncio.gather(
        *(
            _sampled_or_scored(engine, pair, side, answer, images, lora)
            for side, answer in zip(SIDES, answers, strict=True)
        )
    )
    said: dict[str, Any] = {"logps_version": min(one.version for one in whole)}
    for side, one in zip(SIDES, whole, strict=True):
        said[f"{side}_logps"] = one.sum
    if images:
        hidden = [NO_PICTURE] * len(images)
        blind = await asyncio.gather(
            *(score(engine, a, images, corruptions=hidden, lora=lora) for a in answers)
        )
        for side, one, without in zip(SIDES, whole, blind, strict=True):
            said[f"{side}_image_dependence"] = one.sum - without.sum
    return pair.model_copy(update=said)


async def _sampled_or_scored(
    engine: Engine,
    pair: Pair,
    side: str,
    answer: Answer,
    images: Sequence[DecodedImage],
    lora: LoRARequest | None,
) -> Score:
    logprobs: list[float] | None = getattr(pair, f"{side}_logprobs")
    version: int | None = getattr(pair, f"{side}_version")
    if logprobs and version is not None and answer.token_ids == getattr(pair, f"{side}_token_ids"):
        return Score(logprobs, version)
    return await score(engine, answer, images, lora=lora)


async def with_ref_logps(engine: Engine, pair: Pair, images: Sequence[DecodedImage]) -> Pair:
    """The pair with `ref_…_logps`: those of the model that the engine was started with, which it
    must still hold. Raises: as `score`."""
    answers = engine.inputs.renderer.pair_answers(pair)
    chosen, rejected = await asyncio.gather(
        *(score(engine, answer, images, lora=None) for answer in answers)
    )
    return pair.model_copy(
        update={"ref_chosen_logps": chosen.sum, "ref_rejected_logps": rejected.sum}
    )
