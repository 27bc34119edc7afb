"""The engine as BDHS's policy: bound to one prompt, its images, one request's sampling settings."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.logprobs import Logprob
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput

from service.rendering import Answer
from service.schemas import ImageTrace, SamplingRequest, WeightSpan
from worker.bdhs.corruption import ImageCorruption
from worker.bdhs.policy import Completion, SentenceEnd
from worker.engine import DecodedImage, Engine, PromptTooLong, RequestRefused, weight_spans
from worker.engine.early_stop import StopCheck, never_stop
from worker.plugin.masking import Placeholder
from worker.responses import look_ahead
from worker.scoring import prompt_logprobs, version_of

PREFIX_CACHE_MIN_TOKENS = 256
"""Image tokens from which on the first sentence of an iteration starts before the others.

vLLM computes what prompts have in common once, if it has it when the next one starts; started
together with others, a long prompt is begun before that and computed again, image and all
(docs/benchmarks.md). Two of the blocks in which vLLM keeps keys and values on a CPU.
"""


def sampling_params(request: SamplingRequest, *, seed: int, **more: Any) -> SamplingParams:
    """What a job asks of the sampler, in vLLM's words. Raises: RequestRefused."""
    try:
        return SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            min_p=request.min_p,
            max_tokens=request.max_tokens,
            seed=seed,
            **more,
        )
    except VLLMClientError as error:  # another vLLM may have other rules than our schema
        raise RequestRefused(str(error)) from error


class EnginePolicy:
    """Implements `worker.bdhs.policy.Policy`, with one adapter from start to end.

    Full weights may change under it; each completion says which version wrote it.
    """

    def __init__(
        self,
        engine: Engine,
        request: SamplingRequest,
        images: Sequence[DecodedImage],
        placeholders: Sequence[Placeholder],
        lora: LoRARequest | None,
    ):
        self._engine = engine
        self._lora = lora
        self._request = request
        self._images = images
        self._first_prefill: tuple[Sequence[ImageCorruption], asyncio.Event] | None = None
        """An iteration's corruptions, and whether vLLM has computed the first prompt under them."""
        self._tokenizer = engine.inputs.processor.tokenizer
        self.prompt = engine.inputs.renderer.prompt(request.conversation)
        self.images = [ImageTrace(tokens=p.image_tokens, views=p.views) for p in placeholders]

    @classmethod
    async def create(
        cls,
        engine: Engine,
        request: SamplingRequest,
        images: Sequence[DecodedImage],
        *,
        lora: LoRARequest | None = None,
    ) -> "EnginePolicy":
        """Raises: BadConversation, RequestRefused, EngineDied."""
        placeholders = await asyncio.gather(*map(engine.placeholder, images))
        return cls(engine, request, images, placeholders, lora)

    def check_fits(self, reference: str) -> None:
        """Raises: PromptTooLong, BadConversation: no policy could be asked to go on with it."""
        answer = self.prompt.answer(reference)
        length = len(answer.prompt_token_ids) + len(answer.token_ids)
        if length >= self._engine.max_model_len:
            raise PromptTooLong(length, self._engine.max_model_len)

    def token_ends(self, answer: str) -> set[int]:
        return self.prompt.token_ends(answer)

    async def complete(
        self,
        answer: str,
        cut: int,
        *,
        corruptions: Sequence[ImageCorruption],
        seed: int,
        sentence_end: SentenceEnd | None,
    ) -> Completion:
        async with self._prefix_cached(corruptions) as computed:

            def stop_check(text: str) -> bool:
                computed.set()
                return sentence_end is not None and sentence_end(text) is not None

            output = await self._generate(
                self.prompt.token_ids_up_to(answer, cut),
                corruptions,
                sampling_params(self._request, seed=seed),
                stop_check,
            )
        written = output.outputs[0]
        end = sentence_end(written.text) if sentence_end else None
        text = written.text[:end]
        return Completion(
            text=text,
            finish_reason="sentence" if end is not None else str(written.finish_reason),
            prompt_token_ids=list(output.prompt_token_ids or ()),
            token_ids=list(written.token_ids),
            thrown_away=0 if end is None else look_ahead(text, written.token_ids, self._tokenizer),
            weight_versions=weight_spans(written, self._lora),
        )

    async def predict(self, answer: str, *, corruptions: Sequence[ImageCorruption]) -> Completion:
        """One prefill: vLLM states the likeliest token at every place of the prompt."""
        token_ids, before = self.prompt.token_ids_with(answer)
        output, places = await prompt_logprobs(
            self._engine,
            Answer(token_ids[:before], token_ids[before:]),
            self._images,
            corruptions=corruptions,
            lora=self._lora,
            alternatives=1,
        )
        ids = [_likeliest(place) for place in places]
        version = version_of(output, self._lora)
        return Completion(
            text=self._tokenizer.decode(ids, skip_special_tokens=True),
            finish_reason="stop",  # where the reference ends
            prompt_token_ids=list(output.prompt_token_ids or ()),
            token_ids=ids,
            weight_versions=[WeightSpan(start=0, end=len(ids), version=version)],
        )

    @asynccontextmanager
    async def _prefix_cached(
        self, corruptions: Sequence[ImageCorruption]
    ) -> AsyncGenerator[asyncio.Event]:
        """Entered when the request may start; the event is set once its prompt is computed."""
        prefill = self._first_prefill
        if prefill is None or prefill[0] is not corruptions:
            prefill = self._first_prefill = corruptions, asyncio.Event()
        elif sum(len(c.kept) for c in corruptions) >= PREFIX_CACHE_MIN_TOKENS:
            await prefill[1].wait()
        try:
            yield prefill[1]
        finally:  # nobody waits for one that failed
            prefill[1].set()

    async def _generate(
        self,
        token_ids: list[int],
        corruptions: Sequence[ImageCorruption],
        params: SamplingParams,
        stop_check: StopCheck = never_stop,
    ) -> RequestOutput:
        return await self._engine.generate(
            token_ids,
            params,
            self._images,
            corruptions=corruptions,
            lora=self._lora,
            stop_check=stop_check,
        )


def _likeliest(place: dict[int, Logprob]) -> int:
    """vLLM gives the likeliest token and the prompt's own, with their ranks."""
    return min(place, key=lambda token: place[token].rank or 0)
