"""The policy: one vLLM engine behind a small interface."""

import asyncio
import multiprocessing
import os
import time
import uuid
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import structlog
from PIL import Image
from vllm import SamplingParams
from vllm.config.lora import MaxLoRARanks
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from service import images, model_names, tracing
from service.schemas import ImageView, WeightSpan
from worker import plugin
from worker.bdhs.policy import View
from worker.engine.early_stop import Watcher, unwatched, watch
from worker.plugin.masking import FEATURE_CACHE_GIB, IMAGE, KEPT, NOISE
from worker.settings import WorkerSettings
from worker.weights.adapters import MODULES

log = structlog.get_logger()

T = TypeVar("T")

DEATH_NOTICE_S = 10.0
"""Longest that vLLM may take to notice that its process was killed."""

DEATH_CHECK_S = 0.2
"""Seconds between two looks whether an engine that owes an answer is still there."""

SENT_GIB = 1.0
"""Bound on the pictures that vLLM's process keeps as they were sent to it, each mask a picture of
its own. One serves the sentences of an iteration and no other, so vLLM's 4 GiB would hold what
nobody asks for again."""

LORA_SIZES = get_args(MaxLoRARanks)
"""Ranks that vLLM sets memory aside for."""


class EngineDied(RuntimeError):
    """The engine's process is gone or no longer answers; what it held may be run again."""


class LoadFailed(RuntimeError):
    """Full weights did not go in whole. The engine counts as dead: it may hold half of them."""


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
        return cls(ref, images.decode_rgb(data))


def written_by(written: CompletionOutput, lora: LoRARequest | None) -> list[WeightSpan]:
    """Which weight version wrote which of a finished request's tokens.

    A request keeps its adapter from start to end. Full weights change under it: vLLM names, for
    every token, the version it was told of by `Engine.load_weights`.
    """
    if lora is not None:
        version = lora.lora_int_id
        return [WeightSpan(start=0, end=len(written.token_ids), version=version)]
    spans = written.weight_versions or ()
    return [WeightSpan(start=s.start, end=s.end, version=int(s.version)) for s in spans]


def _on_this_platform(settings: WorkerSettings) -> dict[str, Any]:
    """What vLLM must be told on a CPU, and does by itself on a GPU.

    The model runs in the process of its scheduler. Else each waits for the other by spinning, which
    takes a core away from all else (docs/benchmarks.md). vLLM turns the name "uni" into "mp",
    because it binds threads to cores in processes of their own; here OMP_NUM_THREADS says how many
    there are, and they sleep while they wait.
    """
    if settings.tensor_parallel_size > 1 or not current_platform.is_cpu():
        return {}
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return {"distributed_executor_backend": UniProcExecutor}


class Engine:
    """A vLLM engine for a LLaVA model, and what must be known of that model to feed it.

    `restart` brings a dead one back, with the weights that it had. `generate` may be called any
    number of times at once.
    """

    def __init__(self, settings: WorkerSettings):
        self._settings = settings
        self.max_lora_rank = settings.max_lora_rank
        self.lora_slots = settings.max_loras
        self.model = model_names.resolve_model(settings.model)
        """The policy's folder or hub name."""
        self._llm: AsyncLLM | None = None
        self._weights: tuple[Path, int] | None = None
        """Folder and version of the full weights in place of the model's own."""
        self.loading = False
        """Whether full weights are being loaded."""
        self._half_loaded = False
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
        llm = await asyncio.to_thread(AsyncLLM.from_engine_args, args)
        try:
            if self._weights is not None:
                await self._answer(llm, self._replace_weights(llm, *self._weights))
            else:
                await llm.update_weight_version("0")
        except BaseException:
            llm.shutdown()
            raise
        config = llm.model_config
        self._family = plugin.family(config.architectures[0])
        self._info = llm.renderer.get_mm_processor().info
        self.tokenizer: Any = llm.get_tokenizer()
        self.image_token_id: int = config.hf_config.image_token_index
        self.max_model_len: int = config.max_model_len
        self.config: Any = config.hf_config
        self._half_loaded = False
        self._llm = llm
        self._last_output = time.monotonic()
        log.info("engine ready", seconds=round(time.monotonic() - started, 1))

    def _args(self) -> AsyncEngineArgs:
        s = self._settings
        defaults: dict[str, Any] = {"mm_processor_cache_gb": SENT_GIB, **_on_this_platform(s)}
        return AsyncEngineArgs(
            model=self.model,
            dtype=s.dtype,  # type: ignore[arg-type]
            max_num_seqs=s.max_num_seqs,
            gpu_memory_utilization=s.gpu_memory_utilization,
            tensor_parallel_size=s.tensor_parallel_size,
            enforce_eager=s.enforce_eager,
            enable_lora=True,
            max_loras=s.max_loras,
            # By default vLLM also makes room beside the output layer. That costs every token a pass
            # over the vocabulary, and under prompt logprobs of several requests it ends the engine.
            lora_target_modules=list(MODULES),
            max_lora_rank=next(size for size in LORA_SIZES if size >= s.max_lora_rank),
            additional_config={FEATURE_CACHE_GIB: s.feature_cache_gib},
            otlp_traces_endpoint=tracing.endpoint(),
            **({} if s.max_model_len is None else {"max_model_len": s.max_model_len}),
            **defaults | s.engine_args,
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
        """Whether the engine is up and, if it has work, has written a token of late."""
        if self._llm is None or self._llm.errored or self._half_loaded:
            return False
        if self.loading:  # nothing comes out meanwhile; it has a time limit of its own
            return True
        idle = time.monotonic() - self._last_output
        return self._in_flight == 0 or idle < self._settings.engine_stall_s

    async def add_lora(self, lora: LoRARequest) -> None:
        """Loads an adapter. Raises: EngineDied; or whatever vLLM has against it, and lives."""
        try:
            llm = self._running()
            await self._answer(llm, llm.add_lora(lora))
        except EngineDeadError as error:
            raise EngineDied("the engine died while it loaded an adapter") from error

    async def remove_lora(self, version: int) -> None:
        """Frees an adapter's slot. An engine that has died holds none."""
        with suppress(EngineDied, EngineDeadError):
            await self._running().remove_lora(version)

    async def load_weights(self, folder: Path, version: int) -> None:
        """Puts full weights in place of all that there are, while requests run.

        Requests under way are held, not ended. They go on with the new weights, from a prefill of
        what they have so far; `written_by` says where. vLLM drops its adapters.

        Args:
            folder: a checkpoint that `worker.weights.checkpoints.check_full` has passed. It must
                stay: an engine that is started again loads it again.
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
        await self._replace_weights(llm, folder, version)
        await llm.resume_generation()

    @staticmethod
    async def _replace_weights(llm: AsyncLLM, folder: Path, version: int) -> None:
        """Everything that a change of weights is, in an engine in which nothing runs.

        The one place to bring weights in by another way: with vLLM's own transfer over NCCL, the
        trainer sends tensors and `reload_weights` becomes `start_weight_update`, `update_weights`
        for each chunk, `finish_weight_update` (after one `init_weight_transfer_engine`). What must
        hold is the same: all of it arrives or `load_weights` fails, caches go, the version is told.
        """
        await llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        # What was computed with the old weights goes: key-value blocks, also those of requests that
        # are held, and image embeddings. vLLM knows nothing of caches of ours: a model of the
        # plugin that keeps something clears it in its `load_weights`. The caches of processed
        # pictures hold pixels and stay: clearing their two ends while requests come loses some.
        if not await llm.reset_prefix_cache(reset_running_requests=True, reset_connector=True):
            raise RuntimeError("vLLM did not reset its prefix cache")
        await llm.reset_encoder_cache()
        await llm.update_weight_version(str(version))

    def checkpoint_names(self, names: Sequence[str]) -> list[str]:
        """The names of a checkpoint's tensors as the engine has them, whoever wrote it."""
        return self._family.MaskedModel.hf_to_vllm_mapper.apply_list(list(names))

    @staticmethod
    async def _answer(llm: AsyncLLM, call: Coroutine[Any, Any, T]) -> T:
        """What the engine answers. vLLM leaves a call waiting for ever when its process dies.

        Raises: EngineDeadError; and what the call raises.
        """
        answer = asyncio.create_task(call)
        try:
            while not (await asyncio.wait({answer}, timeout=DEATH_CHECK_S))[0]:
                if llm.errored:
                    raise EngineDeadError
            return answer.result()
        finally:
            answer.cancel()

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
        watcher: Watcher = unwatched,
    ) -> RequestOutput:
        """A request's answers, once they are complete. Cancelled, it leaves nothing running.

        Args:
            prompt_token_ids: with one image placeholder for each picture.
            params: `max_tokens` is lowered to what the context leaves. They belong to the request.
            view: how much of a single picture to show: at least one token. None: all of it.
                With no picture: an empty one, or None.
            lora: an adapter that `add_lora` has accepted; any other kills vLLM's process.
            watcher: sees each answer grow, and may end it.

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
        params.output_kind = RequestOutputKind.FINAL_ONLY
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

        def watched(text: str) -> bool:
            self._last_output = time.monotonic()
            return watcher(text)

        if self._in_flight == 0:
            self._last_output = time.monotonic()
        self._in_flight += 1
        request_id = uuid.uuid4().hex
        output: RequestOutput | None = None
        try:
            queue = await llm.add_request(
                request_id, prompt, params, lora_request=lora, trace_headers=tracing.headers()
            )
            watch(llm, request_id, watched)
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
