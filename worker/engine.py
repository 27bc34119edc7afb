"""The policy: one vLLM engine behind a small interface."""

import asyncio
import multiprocessing
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_args

import structlog
from PIL import Image
from vllm import SamplingParams
from vllm.config.lora import MaxLoRARanks
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from service import models, pictures, tracing
from service.schemas import ImageView
from worker import plugin
from worker.bdhs.policy import View
from worker.plugin.masking import FEATURE_CACHE_GIB, IMAGE, KEPT, NOISE
from worker.settings import WorkerSettings

log = structlog.get_logger()

DEATH_NOTICE_S = 10.0
"""Longest that vLLM may take to notice that its process was killed."""

LORA_SIZES = get_args(MaxLoRARanks)
"""Ranks that vLLM sets memory aside for."""


class EngineDied(RuntimeError):
    """The engine's process is gone or no longer answers; what it held may be run again."""


class PromptTooLong(ValueError):
    """The prompt leaves no room for a single new token."""

    def __init__(self, tokens: int, limit: int):
        super().__init__(
            f"the prompt has {tokens} tokens with its image; the model takes {limit}, "
            "one of them new"
        )
        self.tokens = tokens
        self.limit = limit


class RequestRefused(ValueError):
    """vLLM refused a request for what is in it."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image and the hash of its encoded bytes, by which the engine caches it."""

    ref: str
    """`sha256:<hex>`"""
    image: Image.Image

    @classmethod
    def decode(cls, ref: str, data: bytes) -> "Picture":
        return cls(ref, pictures.decode(data))


class Engine:
    """A vLLM engine for a LLaVA model, and what must be known of that model to feed it.

    `restart` brings a dead one back. `generate` may be called any number of times at once.
    """

    def __init__(self, settings: WorkerSettings):
        self._settings = settings
        self.max_lora_rank = settings.max_lora_rank
        self.lora_slots = settings.max_loras
        self.model = models.locate(settings.model)
        """The policy's folder or hub name."""
        self._llm: AsyncLLM | None = None
        self._in_flight = 0
        self._last_output = time.monotonic()

    async def start(self) -> None:
        """Start vLLM and wait until it can serve.

        Raises:
            worker.plugin.UnsupportedModel: the checkpoint is of another family.
        """
        args = self._args()
        await asyncio.to_thread(self._refuse_unsupported, args)
        started = time.monotonic()
        log.info("engine starting", model=self._settings.model)
        # Loading blocks for as long as the weights take; leases are renewed meanwhile.
        self._llm = await asyncio.to_thread(AsyncLLM.from_engine_args, args)
        config = self._llm.model_config
        self._family = plugin.family(config.architectures[0])
        self._info = self._llm.renderer.get_mm_processor().info
        self.tokenizer: Any = self._llm.get_tokenizer()
        self.image_token_id: int = config.hf_config.image_token_index
        self.max_model_len: int = config.max_model_len
        self.text_config: Any = config.hf_config.text_config
        self._last_output = time.monotonic()
        log.info("engine ready", seconds=round(time.monotonic() - started, 1))

    def _args(self) -> AsyncEngineArgs:
        s = self._settings
        return AsyncEngineArgs(
            model=self.model,
            dtype=s.dtype,  # type: ignore[arg-type]
            max_num_seqs=s.max_num_seqs,
            gpu_memory_utilization=s.gpu_memory_utilization,
            tensor_parallel_size=s.tensor_parallel_size,
            enforce_eager=s.enforce_eager,
            enable_lora=True,
            max_loras=s.max_loras,
            max_lora_rank=next(size for size in LORA_SIZES if size >= s.max_lora_rank),
            additional_config={FEATURE_CACHE_GIB: s.feature_cache_gib},
            otlp_traces_endpoint=tracing.endpoint(),
            **({} if s.max_model_len is None else {"max_model_len": s.max_model_len}),
            **s.engine_args,
        )

    @staticmethod
    def _refuse_unsupported(args: AsyncEngineArgs) -> None:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(args.model, trust_remote_code=args.trust_remote_code)
        architectures = config.architectures or [type(config).__name__]
        try:
            plugin.family(architectures[0])
        except plugin.UnsupportedModel as error:
            raise plugin.UnsupportedModel(f"--model {args.model}: {error}") from None

    def stop(self) -> None:
        """Ends the engine's processes; nothing happens if there are none."""
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None

    async def restart(self) -> None:
        """Another engine in place of one that is dead, or stuck.

        Requests of a stuck one end with `EngineDied` before it is taken down: vLLM tells them so
        when its process dies, and not when it is stopped.
        """
        if self._llm is not None and not self._llm.errored:
            for process in multiprocessing.active_children():
                process.kill()
            with suppress(TimeoutError):
                async with asyncio.timeout(DEATH_NOTICE_S):
                    while not self._llm.errored:  # noqa: ASYNC110  vLLM tells nobody
                        await asyncio.sleep(0.05)
        await asyncio.to_thread(self.stop)
        await self.start()

    @property
    def alive(self) -> bool:
        """Whether the engine is up and, if it has work, has put something out of late."""
        if self._llm is None or self._llm.errored:
            return False
        idle = time.monotonic() - self._last_output
        return self._in_flight == 0 or idle < self._settings.engine_stall_s

    async def add_lora(self, lora: LoRARequest) -> None:
        """Loads an adapter. Raises: EngineDied; or whatever vLLM has against it, and lives."""
        try:
            await self._running().add_lora(lora)
        except EngineDeadError as error:
            raise EngineDied("the engine died while it loaded an adapter") from error

    async def remove_lora(self, version: int) -> None:
        """Frees an adapter's slot. An engine that has died holds none."""
        with suppress(EngineDied, EngineDeadError):
            await self._running().remove_lora(version)

    def _running(self) -> AsyncLLM:
        if self._llm is None:
            raise EngineDied("the engine is not running")
        return self._llm

    def image_tokens(self, picture: Picture) -> int:
        """k: into how many vectors the model encodes this picture."""
        width, height = picture.image.size
        return self._info.get_num_image_tokens(image_width=width, image_height=height)

    def image_views(self, picture: Picture) -> list[ImageView]:
        """How those vectors cover the picture."""
        width, height = picture.image.size
        return self._family.views(self._info, width, height)

    async def generate(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        pictures: Sequence[Picture] = (),
        *,
        view: View | None = None,
        lora: LoRARequest | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Outputs of one request as they come; closing the generator aborts the request.

        Args:
            prompt_token_ids: with one image placeholder for each picture.
            params: `max_tokens` is lowered to what the context leaves.
            view: how much of a single picture to show: at least one token. None: all of it.
            lora: an adapter that `add_lora` has accepted; any other kills vLLM's process.

        Raises:
            PromptTooLong, RequestRefused, EngineDied
        """
        llm = self._running()
        all_tokens = sum(map(self.image_tokens, pictures))
        image_tokens = all_tokens if view is None else len(view.kept)
        length = len(prompt_token_ids) - len(pictures) + image_tokens
        if length >= self.max_model_len:
            raise PromptTooLong(length, self.max_model_len)
        params.max_tokens = min(params.max_tokens or length, self.max_model_len - length)
        prompt = TokensPrompt(prompt_token_ids=list(prompt_token_ids))
        if pictures:
            prompt["multi_modal_data"] = {"image": [p.image for p in pictures]}
            prompt["multi_modal_uuids"] = {"image": [p.ref for p in pictures]}
            if len(pictures) == 1:
                changes: dict[str, Any] = {IMAGE: pictures[0].ref}
                # What changes nothing is left out, so that its cached embeddings are shared.
                if view is not None and image_tokens < all_tokens:
                    changes[KEPT] = list(view.kept)
                if view is not None and view.noise_steps:
                    changes[NOISE] = [view.noise_steps, view.noise_seed]
                prompt["mm_processor_kwargs"] = changes
        outputs = llm.generate(
            prompt,
            params,
            request_id=uuid.uuid4().hex,
            lora_request=lora,
            trace_headers=tracing.headers(),
        )
        if self._in_flight == 0:
            self._last_output = time.monotonic()
        self._in_flight += 1
        try:
            async for output in outputs:
                self._last_output = time.monotonic()
                yield output
        except EngineDeadError as error:
            raise EngineDied("the engine died while it worked on this") from error
        except VLLMClientError as error:
            raise RequestRefused(str(error)) from error
        finally:
            self._in_flight -= 1
            await outputs.aclose()
