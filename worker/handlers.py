"""What a worker does for each kind of job."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import structlog
from vllm import SamplingParams
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput

from service.annotator import CannotJudge, Case
from service.broker import Broker, Claim, ImageGone
from service.excerpts import excerpt
from service.images import BadImage
from service.rendering import BadConversation
from service.schemas import (
    Annotation,
    BdhsRequest,
    BdhsResult,
    BdhsTrace,
    JobError,
    LogprobsRequest,
    LogprobsResult,
    Message,
    Outcome,
    Pair,
    Result,
    SampleRequest,
    SampleResult,
    SamplingRequest,
    outcome_of_texts,
)
from worker.annotators.ranking import rank_responses
from worker.annotators.registry import AnnotatorRegistry
from worker.bdhs.algorithm import generate_rejected
from worker.bdhs.policy import SentenceEnd
from worker.embedder import Embedder
from worker.engine import DecodedImage, Engine, ImageRefused, PromptTooLong, RequestRefused
from worker.engine_policy import EnginePolicy, sampling_params
from worker.pairs import bdhs_pair, ranked_pairs
from worker.responses import response_of, sentence_end_after
from worker.scoring import score_responses, with_logps, with_ref_logps
from worker.weights.versions import VersionGone, WeightVersions


class JobFailed(Exception):
    """The job would fail again: its own content is the reason."""

    def __init__(self, error: JobError):
        super().__init__(error.message)
        self.error = error


class Handlers:
    """Run claimed jobs on the policy."""

    def __init__(
        self,
        broker: Broker,
        engine: Engine,
        versions: WeightVersions,
        embedder: Embedder,
        annotators: AnnotatorRegistry,
    ):
        self._broker = broker
        self._engine = engine
        self._versions = versions
        self._embedder = embedder
        self._annotators = annotators

    async def run(self, claim: Claim) -> Result:
        """The job's result, with its pairs where it makes any.

        Raises:
            JobFailed: it would fail again.
            EngineDied, AnnotatorUnavailable: it may be run again.
        """
        try:
            images = await asyncio.gather(*map(self._image, claim.request.images))
            async with self._weights(claim.request.weight_version) as lora:
                match claim.request:
                    case SampleRequest() as request:
                        return await self._sample(claim, request, images, lora)
                    case BdhsRequest() as request:
                        return await self._bdhs(claim, request, images, lora)
                    case LogprobsRequest() as request:
                        return await self._logprobs(request, images, lora)
                    case other:
                        raise TypeError(f"no handler for {type(other).__name__}")
        except ImageGone as error:
            raise _job_failed("image_gone", error) from error
        except BadImage as error:
            raise _job_failed("invalid_image", error) from error
        except PromptTooLong as error:
            raise _job_failed(
                "prompt_too_long", error, tokens=error.tokens, limit=error.limit
            ) from error
        except VersionGone as error:
            raise _job_failed("version_gone", error) from error
        except BadConversation as error:
            raise _job_failed("bad_conversation", error) from error
        except ImageRefused as error:
            raise _job_failed(
                "image_refused", error, width=error.width, height=error.height
            ) from error
        except RequestRefused as error:
            raise _job_failed("refused_by_engine", error) from error
        except CannotJudge as error:
            raise _job_failed("annotator_failed", error) from error

    @asynccontextmanager
    async def _weights(self, named: int | None) -> AsyncGenerator[LoRARequest | None]:
        """What the job runs on: the newest version, or the one that it names."""
        structlog.contextvars.bind_contextvars(
            version=self._versions.current if named is None else named
        )
        if named is None:
            with self._versions.use_current() as lora:
                yield lora
            return
        announced = await self._broker.weights.get(named)
        async with self._versions.use_version(named, announced) as lora:
            yield lora

    async def _image(self, ref: str) -> DecodedImage:
        data = await self._broker.images.get(ref)
        return await asyncio.to_thread(DecodedImage.decode, ref, data)

    async def _sample(
        self,
        claim: Claim,
        request: SampleRequest,
        images: list[DecodedImage],
        lora: LoRARequest | None,
    ) -> SampleResult:
        seed = _given_or_random_seed(request.seed)
        params = sampling_params(
            request,
            seed=seed,
            n=request.n,
            stop=request.stop,
            logprobs=_logprobs(request),
        )
        start = request.answer_start
        ends = sentence_end_after(start) if request.stop_at == "sentence" else None
        written = await self._generate(request.turns, params, images, lora, start, ends)
        tokenizer = self._engine.inputs.processor.tokenizer
        responses = [response_of(w, lora, request.logprobs, ends, tokenizer) for w in written]
        result = SampleResult(responses=responses, seed=seed)
        if request.annotator is not None:
            result.annotation, result.outcome = await self._annotate(request, result, images, lora)
            inputs = self._engine.inputs
            result.pairs = ranked_pairs(
                claim, request, result, written, inputs.processor.tokenizer, inputs.digest
            )
            result.pairs = [
                await self._scored(request, pair, images, lora) for pair in result.pairs
            ]
        return result

    async def _generate(
        self,
        conversation: Sequence[Message],
        params: SamplingParams,
        images: list[DecodedImage],
        lora: LoRARequest | None,
        answer_start: str = "",
        sentence_end: SentenceEnd | None = None,
    ) -> list[CompletionOutput]:
        """Answers to a conversation, or how the start of one goes on."""
        prompt = self._engine.inputs.renderer.prompt(conversation)
        output = await self._engine.generate(
            prompt.token_ids_before_continuing(answer_start),
            params,
            images,
            lora=lora,
            stop_check=lambda text: sentence_end is not None and sentence_end(text) is not None,
        )
        return output.outputs

    async def _annotate(
        self,
        request: SampleRequest,
        result: SampleResult,
        images: list[DecodedImage],
        lora: LoRARequest | None,
    ) -> tuple[Annotation, Outcome]:
        assert request.annotator is not None
        version = result.responses[0].oldest_version
        annotator, judge = await self._annotators.get(request.annotator, version)

        async def ask(conversation: Sequence[Message], *, max_tokens: int) -> str:
            params = SamplingParams(temperature=0, max_tokens=max_tokens)
            [written] = await self._generate(conversation, params, images, lora)
            return written.text

        case = Case(
            conversation=request.conversation,
            images=await asyncio.gather(*map(self._broker.images.get, request.images)),
            first="",
            second="",
            metadata=request.metadata,
            ask=ask,
        )
        return await rank_responses(
            annotator,
            case,
            [response.text for response in result.responses],
            orders=request.orders,
            seed=result.seed,
            name=request.annotator,
            judge=judge,
        )

    async def _bdhs(
        self,
        claim: Claim,
        request: BdhsRequest,
        images: list[DecodedImage],
        lora: LoRARequest | None,
    ) -> BdhsResult:
        seed = _given_or_random_seed(request.seed)
        policy = await EnginePolicy.create(self._engine, request, images, lora=lora)
        await asyncio.to_thread(policy.check_fits, request.reference)
        rejected = await generate_rejected(request, seed, policy, self._embedder.similarity)
        outcome = outcome_of_texts(request.reference, rejected.text)
        pairs: list[Pair] = []
        if outcome is Outcome.pair:
            digest = self._engine.inputs.digest
            pair = bdhs_pair(claim, request, seed, rejected, policy.prompt, digest)
            pairs = [await self._scored(request, pair, images, lora)]
        return BdhsResult(
            outcome=outcome,
            pairs=pairs,
            text=rejected.text,
            similarity=rejected.similarity,
            iterations=len(rejected.trace.iterations),
            trace=_trim_trace(rejected.trace, request.trace),
        )

    async def _logprobs(
        self, request: LogprobsRequest, images: list[DecodedImage], lora: LoRARequest | None
    ) -> LogprobsResult:
        seed = _given_or_random_seed(request.seed)
        responses = await score_responses(self._engine, request, seed, images, lora)
        return LogprobsResult(responses=responses, seed=seed)

    async def _scored(
        self,
        request: SamplingRequest,
        pair: Pair,
        images: list[DecodedImage],
        lora: LoRARequest | None,
    ) -> Pair:
        """The pair, with what the request asks to be said of it."""
        if request.logps:
            pair = await with_logps(self._engine, pair, images, lora)
        if request.ref_logps:
            async with self._versions.use_version(0, None):
                pair = await with_ref_logps(self._engine, pair, images)
        return pair


def _job_failed(code: str, error: Exception, **details: int) -> JobFailed:
    return JobFailed(JobError(code=code, message=excerpt(str(error)), details=dict(details)))


def _given_or_random_seed(asked: int | None) -> int:
    return secrets.randbits(62) if asked is None else asked


def _trim_trace(trace: BdhsTrace, how_much: str) -> BdhsTrace | None:
    """As much of the trace as the request asked for."""
    if how_much == "none":
        return None
    if how_much == "summary":
        for iteration in trace.iterations:
            for sentence in iteration.sentences:
                sentence.prompt_token_ids = None
                sentence.completion_token_ids = None
    return trace


def _logprobs(request: SampleRequest) -> int | None:
    """Alternatives whose log-probability vLLM is asked for; 0: those of the sampled tokens alone,
    which pairs carry."""
    return 0 if request.logprobs is None and request.annotator is not None else request.logprobs
