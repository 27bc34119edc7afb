"""What an engine on a CPU takes of the machine's memory.

By itself, vLLM takes a share of all memory there (`gpu_memory_utilization`), and does not start
while others use too much of the rest. Here it takes what the model needs, and a cache that serves
the sequences that it decodes together.
"""

import math
from dataclasses import dataclass

from vllm.config import VllmConfig
from vllm.platforms import current_platform
from vllm.utils.torch_utils import kv_cache_dtype_str_to_dtype

from worker.engine.errors import NotEnoughMemory
from worker.engine.free_memory import free_memory
from worker.model_shapes import ModelShapes
from worker.settings import WorkerSettings

GIB = 1 << 30

MAX_CACHE = 16 * GIB
"""Bytes of keys and values, at most; and no more than half of what the model leaves free."""

PROCESS = GIB
"""Bytes that the engine's process takes beside its model and cache: libraries, a step's
activations. One on the toy model, all in all, started with 1.08 GiB."""


@dataclass(frozen=True, slots=True)
class CpuMemory:
    """Bytes."""

    weights: int
    adapters: int
    """Room for LoRA adapters of the highest rank, and the adapters as they were loaded."""
    cache: int
    """Keys and values."""
    free: int
    """Before all that is taken."""

    def in_gib(self) -> dict[str, float]:
        """For the log, in GiB."""
        return {
            f"{part}_gib": float(f"{getattr(self, part) / GIB:.3g}")
            for part in ("weights", "adapters", "cache", "free")
        }


def take_memory(
    config: VllmConfig, shapes: ModelShapes, settings: WorkerSettings
) -> dict[str, float]:
    """On a CPU, has vLLM take what is needed, unless it was told by the user how much.

    Returns: what that is, in GiB, for the log. Raises: NotEnoughMemory.
    """
    told = (
        config.cache_config.kv_cache_memory_bytes is not None  # or VLLM_CPU_KVCACHE_SPACE
        or settings.gpu_memory_utilization is not None
        or "gpu_memory_utilization" in settings.engine_args
    )
    if told or not current_platform.is_cpu():
        return {}
    memory = plan_memory(config, shapes, free_memory())
    workers = config.parallel_config.world_size
    config.cache_config.kv_cache_memory_bytes = memory.cache // workers
    return memory.in_gib()


def plan_memory(config: VllmConfig, shapes: ModelShapes, free: int) -> CpuMemory:
    """What an engine of this config takes, on all its workers together.

    Args:
        free: bytes that may be taken.

    Raises:
        NotEnoughMemory: they do not hold the model and one sequence.
    """
    model = config.model_config
    weight_bytes = model.dtype.itemsize  # type: ignore[union-attr]
    weights = weight_bytes * sum(map(math.prod, shapes.tensors.values()))
    adapters = 0
    if config.lora_config is not None:
        one = sum(outputs + inputs for outputs, inputs in shapes.linear_layers.values())
        one *= config.lora_config.max_lora_rank * weight_bytes
        adapters = 2 * config.lora_config.max_loras * one
    sequence = bytes_of_a_sequence(config)
    left = free - weights - adapters - PROCESS
    if left < sequence:
        raise NotEnoughMemory(
            f"{model.model} needs {_gib(free - left + sequence)} GiB of memory and "
            f"{_gib(free)} GiB are free: {_gib(weights)} for weights in {model.dtype}, "
            f"{_gib(adapters)} for LoRA adapters, {_gib(sequence)} for keys and values of one "
            f"sequence of {model.max_model_len} tokens, {_gib(PROCESS)} for the process. End what "
            "else takes memory, or lower PREFSTREAM_WORKER_MAX_MODEL_LEN, "
            "PREFSTREAM_WORKER_MAX_LORA_RANK or PREFSTREAM_WORKER_MAX_LORAS, or choose a smaller "
            "PREFSTREAM_WORKER_DTYPE."
        )
    wanted = config.scheduler_config.max_num_seqs * sequence
    cache = max(sequence, min(wanted, left // 2, MAX_CACHE))
    return CpuMemory(weights, adapters, cache, free)


def bytes_of_a_sequence(config: VllmConfig) -> int:
    """Of keys and values, of the longest sequence, with the empty block that vLLM keeps."""
    model, parallel, cache = config.model_config, config.parallel_config, config.cache_config
    blocks = math.ceil(model.max_model_len / cache.block_size) + 1
    itemsize = kv_cache_dtype_str_to_dtype(cache.cache_dtype, model).itemsize
    heads = model.get_num_kv_heads(parallel) * parallel.tensor_parallel_size
    layers = model.get_total_num_hidden_layers()
    return blocks * cache.block_size * 2 * layers * heads * model.get_head_size() * itemsize


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
