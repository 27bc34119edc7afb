"""What vLLM must be told on a CPU, and does by itself on a GPU."""

import os
from typing import Any

from vllm.platforms import current_platform
from vllm.v1.executor.uniproc_executor import UniProcExecutor


def platform_defaults(tensor_parallel_size: int) -> dict[str, Any]:
    """Arguments of vLLM's `AsyncEngineArgs` for the platform that this runs on.

    On a CPU, the model runs in the process of its scheduler. Else each waits for the other by
    spinning, which takes a core away from all else (docs/benchmarks.md). vLLM turns the name "uni"
    into "mp", because it binds threads to cores in processes of their own; here OMP_NUM_THREADS
    says how many there are, and they sleep while they wait.
    """
    if tensor_parallel_size > 1 or not current_platform.is_cpu():
        return {}
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return {"distributed_executor_backend": UniProcExecutor}
