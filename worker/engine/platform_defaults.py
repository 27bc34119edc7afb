"""What vLLM must be told on one platform, and does by itself on the other."""

import os
from typing import Any

from vllm.platforms import current_platform
from vllm.v1.executor.uniproc_executor import UniProcExecutor


def platform_defaults(tensor_parallel_size: int) -> dict[str, Any]:
    """Arguments of vLLM's `AsyncEngineArgs` for the platform that this runs on.

    vLLM's processes are spawned everywhere, as it does by itself on a CPU. On a GPU it would fork
    them from this one, threads and all, and what the plugin does in a process of vLLM's, such as
    ending with the worker, would not be done there.

    On a CPU, the model runs in the process of its scheduler. Else each waits for the other by
    spinning, which takes a core away from all else (docs/benchmarks.md). vLLM turns the name "uni"
    into "mp", because it binds threads to cores in processes of their own; here OMP_NUM_THREADS
    says how many there are, and they sleep while they wait.
    """
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    if tensor_parallel_size > 1 or not current_platform.is_cpu():
        return {}
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return {"distributed_executor_backend": UniProcExecutor}


def adapter_slots(versions: int) -> int:
    """vLLM's `max_loras`, for so many adapters at once.

    On a CPU one more, which stays empty: where requests with and without an adapter share a step,
    vLLM 0.32's kernels add the last slot's adapter to those without (slot -1 of a tensor), so that
    the model itself would write something else as soon as all slots are taken.
    """
    return versions + current_platform.is_cpu()
