"""One vLLM engine behind a small interface: requests, adapters, full weights, restarts."""

import asyncio
import multiprocessing
import time
import uuid
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import structlog
import torch
from cachetools import LRUCache
from vllm import SamplingParams
from vllm.config.lora import MaxLoRARanks
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.lora.request import LoRARequest
from vllm.model_executor.models.interfaces import supports_mrope
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from service import model_names, tracing
from service.checkpoints.input_processor import load_config, load_input_processor
from worker.bdhs.corruption import ImageCorruption
from worker.engine.cpu_memory import take_memory
from worker.engine.death import how_it_died
from worker.engine.decoded_image import DecodedImage
from worker.engine.early_stop import StopCheck, add_stop_check, never_stop
from worker.engine.errors import (
    EngineDied,
    ImageRefused,
    LoadFailed,
    PromptTooLong,
    RequestRefused,
)
from worker.engine.image_prompt import image_prompt
from worker.engine.platform_defaults import adapter_slots, platform_defaults
from worker.engine.unknown_tokens import give_unknown_tokens_text
from worker.engine.weight_loading import replace_weights
from worker.model_shapes import model_shapes
from worker.plugin.families import UnsupportedModel, require_family
from worker.plugin.masking import FEATURE_CACHE_GIB, Placeholder, engine_names, masked_model
from worker.settings import WorkerSettings

log = structlog.get_logger()

T = TypeVar("T")

DEATH_NOTICE_TIMEOUT_S = 10.0
"""Longest that vLLM may take to notice that its process was killed."""

DEATH_POLL_S = 0.2
"""Seconds between two looks whether an engine that owes an answer is still there."""

PROCESSOR_CACHE_GIB = 1.0
"""vLLM's `mm_processor_cache_gb`: bound on the processed images that its process keeps, where every
mask makes another. One serves the sentences of an iteration and no other, so vLLM's default of
4 GiB would hold what nobody asks for again."""

GPU_MEMORY_UTILIZATION = 0.9
"""Share of a GPU's memory that vLLM takes, unless a setting says otherwise."""

PLACEHOLDERS = 4096
"""Images of which it is kept what stands for them in a prompt; some 10 KiB each."""

LORA_RANKS = get_args(MaxLoRARanks)
"""Ranks that vLLM sets memory aside for."""


class Engine:
    """A vLLM engine for a vision-language model, and what must be known of that model to feed it.

    `restart` brings a dead one back, with the weights that it had. `generate` may be called any
    number of times at once.
    """

    def __init__(self, settings: WorkerSettings):
        self._settings = settings
        self.max_lora_rank = settings.max_lora_rank
        self.max_loras = settings.max_loras
        self.model = model_names.resolve_model(settings.model)
        """The policy's folder or hub name."""
        self._config_read = False
        self._llm: AsyncLLM | None = None
        self._weights: tuple[Path, int] | None = None
        """Folder and version of the full weights in place of the model's own."""
        self.loading = False
        """Whether full weights are being loaded."""
        self._half_loaded = False
        self._in_flight = 0
        self._last_output = time.monotonic()
        self._placeholders: LRUCache[str, Placeholder] = LRUCache(PLACEHOLDERS)

    async def start(self) -> None:
        """Start vLLM and wait until it can serve.

        Raises:
            UnsupportedModel: the checkpoint is of another family.
            UnusableCheckpoint, NoChatTemplate: there is none, or it lacks what conversations with
                images need.
            NotEnoughMemory: of the machine, on a CPU.
        """
        if not self._config_read:
            await asyncio.to_thread(self.read_config)
        started = time.monotonic()
        # Loading blocks for as long as the weights take; leases are renewed meanwhile.
        llm = await asyncio.to_thread(self._load)
        try:
            if self._weights is not None:
                await self._answer(llm, replace_weights(llm, *self._weights))
            else:
                await llm.update_weight_version("0")
        except BaseException:
            llm.shutdown()
            raise
        config = llm.model_config
        self._processor: Any = llm.renderer.get_mm_processor()
        self.max_model_len: int = config.max_model_len
        self.dtype: torch.dtype = config.dtype
        self._half_loaded = False
        self._llm = llm
        self._last_output = time.monotonic()
        log.info("engine ready", seconds=round(time.monotonic() - started, 1))

    def _load(self) -> AsyncLLM:
        args = self._args()
        config = args.create_engine_config(UsageContext.ENGINE_CONTEXT)
        memory = take_memory(config, self.shapes, self._settings)
        log.info("engine starting", model=self._settings.model, **memory)
        llm = AsyncLLM.from_vllm_config(
            config,
            enable_log_requests=args.enable_log_requests,
            disable_log_stats=args.disable_log_stats,
        )
        give_unknown_tokens_text(llm.get_tokenizer())
        return llm

    def _args(self) -> AsyncEngineArgs:
        s = self._settings
        defaults: dict[str, Any] = {
            "mm_processor_cache_gb": PROCESSOR_CACHE_GIB,
            **platform_defaults(s.tensor_parallel_size),
        }
        return AsyncEngineArgs(
            model=self.model,
            dtype=s.dtype,  # type: ignore[arg-type]
            max_num_seqs=s.max_num_seqs,
            gpu_memory_utilization=s.gpu_memory_utilization or GPU_MEMORY_UTILIZATION,
            tensor_parallel_size=s.tensor_parallel_size,
            enforce_eager=s.enforce_eager,
            enable_lora=True,
            max_loras=adapter_slots(s.max_loras),
            # By default vLLM also makes room beside the output layer. That costs every token a pass
            # over the vocabulary, and under prompt logprobs of several requests it ends the engine.
            lora_target_modules=self.shapes.lora_target_modules,
            mm_processor_kwargs=s.mm_processor_kwargs or None,
            max_lora_rank=next(size for size in LORA_RANKS if size >= s.max_lora_rank),
            additional_config={FEATURE_CACHE_GIB: s.feature_cache_gib},
            otlp_traces_endpoint=tracing.endpoint(),
            **({} if s.max_model_len is None else {"max_model_len": s.max_model_len}),
            **defaults | s.engine_args,
        )

    def read_config(self) -> None:
        """Reads what the checkpoint's files but the weights say of the model: `shapes`, `inputs`.

        Raises: as `start`, which does it by itself.
        """
        trust = bool(self._settings.engine_args.get("trust_remote_code", False))
        config = load_config(self.model, trust_remote_code=trust)
        self.architecture = (config.architectures or [type(config).__name__])[0]
        try:
            require_family(self.architecture, unproven=self._settings.unproven)
        except UnsupportedModel as error:
            raise UnsupportedModel(f"--model {self.model}: {error}") from None
        self._mrope = supports_mrope(masked_model(self.architecture))
        self.shapes = model_shapes(config, engine_names(self.architecture))
        self.inputs = load_input_processor(self.model, self._settings, trust_remote_code=trust)
        self._config_read = True

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
                async with asyncio.timeout(DEATH_NOTICE_TIMEOUT_S):
                    while not self._llm.errored:  # noqa: ASYNC110  vLLM tells nobody
                        await asyncio.sleep(0.05)
        await asyncio.to_thread(self.stop)
        await self.start()

    @property
    def alive(self) -> bool:
        """Whether the engine is up and, if it has work, has written a token of late."""
        if self._llm is None or self._llm.errored or self._half_loaded:
            return False
        if self.loading:  # nothing comes out meanwhile; it has a time limit of its own
            return True
        idle = time.monotonic() - self._last_output
        return self._in_flight == 0 or idle < self._settings.engine_stall_s

    def how_it_died(self) -> str:
        """What is known of the end of an engine that is not alive, in words."""
        return "it is not running" if self._llm is None else how_it_died(self._llm)

    async def add_lora(self, lora: LoRARequest) -> None:
        """Loads an adapter. Raises: EngineDied; or whatever vLLM has against it, and lives."""
        llm = self._running()
        limit = self._settings.load_timeout_s
        try:
            async with asyncio.timeout(limit):
                await self._answer(llm, llm.add_lora(lora))
        except EngineDeadError as error:
            raise EngineDied("the engine died while it loaded an adapter") from error
        except TimeoutError as error:
            self._half_loaded |= self._llm is llm
            raise EngineDied(
                f"the engine took longer than {limit:g} s (load_timeout_s) to load an adapter"
            ) from error

    async def remove_lora(self, version: int) -> None:
        """Frees an adapter's slot. An engine that has died holds none."""
        with suppress(EngineDied, EngineDeadError):
            await self._running().remove_lora(version)

    async def load_weights(self, folder: Path, version: int) -> None:
        """Puts full weights in place of all that there are, while requests run.

        Requests under way are held, not ended. They go on with the new weights, from a prefill of
        what they have so far; `weight_spans` says where. vLLM drops its adapters.

        Args:
            folder: a checkpoint that has passed `worker.weights.checkpoints.check_checkpoint`. It
                must stay: an engine that is started again loads it again.
            version: what requests name as the writer from now on.

        Raises:
            LoadFailed: with the reason. `restart` brings the previous weights back.
            EngineDied: the same, and it is not known that these weights were the reason.
        """
        llm = self._running()
        limit = self._settings.load_timeout_s
        self.loading = True
        try:
            async with asyncio.timeout(limit):
                await self._answer(llm, self._load_weights(llm, folder, version))
        except BaseException as error:
            # A second load on top of a half one mixes the two (vLLM goes on where it broke off),
            # so nothing is mended in place.
            self._half_loaded |= self._llm is llm
            if isinstance(error, EngineDeadError):
                raise EngineDied("the engine died while it loaded weights") from error
            if isinstance(error, TimeoutError):
                raise LoadFailed(f"it took longer than {limit:g} s (load_timeout_s)") from error
            if isinstance(error, Exception):
                raise LoadFailed(f"{type(error).__name__}: {error}") from error
            raise
        finally:
            self.loading = False
            self._last_output = time.monotonic()
        self._weights = (folder, version)

    async def _load_weights(self, llm: AsyncLLM, folder: Path, version: int) -> None:
        await llm.pause_generation(mode="keep", clear_cache=False)
        await replace_weights(llm, folder, version)
        await llm.resume_generation()

    @staticmethod
    async def _answer(llm: AsyncLLM, call: Coroutine[Any, Any, T]) -> T:
        """What the engine answers. vLLM leaves a call waiting for ever when its process dies.

        Raises: EngineDeadError; and what the call raises.
        """
        answer = asyncio.create_task(call)
        try:
            while not (await asyncio.wait({answer}, timeout=DEATH_POLL_S))[0]:
                if llm.errored:
                    raise EngineDeadError
            return answer.result()
        finally:
            answer.cancel()

    def _running(self) -> AsyncLLM:
        if self._llm is None:
            raise EngineDied("the engine is not running")
        return self._llm

    async def placeholder(self, image: DecodedImage) -> Placeholder:
        """What stands for this image in a prompt: its k image tokens, and how they cover it.

        Raises: EngineDied, ImageRefused.
        """
        found = self._placeholders.get(image.ref)
        if found is None:
            # Where vLLM processes images, too: in one thread, one at a time.
            executor = self._running().renderer._mm_executor
            made = asyncio.get_running_loop().run_in_executor(
                executor, self._processor.placeholder, image.image, image.ref
            )
            try:
                found = await made
            except Exception as error:  # processors raise what they like
                # vLLM's own repeats what it was given.
                raise ImageRefused(image, error.__cause__ or error) from error
            self._placeholders[image.ref] = found
        return found

    async def generate(
        self,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        images: Sequence[DecodedImage] = (),
        *,
        corruptions: Sequence[ImageCorruption | None] = (),
        lora: LoRARequest | None = None,
        stop_check: StopCheck = never_stop,
        share_whole: bool = True,
    ) -> RequestOutput:
        """A request's answers, once they are complete. Cancelled, it leaves nothing running.

        Args:
            prompt_token_ids: with one image placeholder for each image.
            params: `max_tokens` is lowered to what the context leaves. They belong to the request.
            corruptions: of each image; None: it is whole. Empty: all are.
            lora: an adapter that `add_lora` has accepted; any other kills vLLM's process.
            stop_check: sees each answer after every token, and may end it.
            share_whole: a mask that hides nothing is none, so that cached embeddings and key-value
                blocks are shared.

        Raises:
            PromptTooLong, RequestRefused, EngineDied
        """
        llm = self._running()
        prompt, length = image_prompt(
            prompt_token_ids,
            images,
            await asyncio.gather(*map(self.placeholder, images)),
            corruptions,
            drop_hidden=not self._mrope,
            share_whole=share_whole,
        )
        if length >= self.max_model_len:
            raise PromptTooLong(length, self.max_model_len)
        params.max_tokens = min(params.max_tokens or length, self.max_model_len - length)
        params.output_kind = RequestOutputKind.FINAL_ONLY

        def check(text: str) -> bool:
            self._last_output = time.monotonic()
            return stop_check(text)

        if self._in_flight == 0:
            self._last_output = time.monotonic()
        self._in_flight += 1
        request_id = uuid.uuid4().hex
        output: RequestOutput | None = None
        try:
            queue = await llm.add_request(
                request_id, prompt, params, lora_request=lora, trace_headers=tracing.headers()
            )
            add_stop_check(llm, request_id, check)
            output = cast(RequestOutput, await queue.get())
            return output
        except EngineDeadError as error:
            raise EngineDied("the engine died while it worked on this") from error
        except VLLMClientError as error:
            raise RequestRefused(str(error)) from error
        finally:
            self._in_flight -= 1
            if output is None:
                await llm.abort(request_id)
