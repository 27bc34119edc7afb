"""Chunked prefill on a CPU: a fix of vLLM's model runner.

A long prompt, and one whose image does not fit into a step any more, is computed in chunks, over
several steps. vLLM samples after each of them, throws away what is not the last one's, and sets the
request's random generator back, so that the seed gives the same tokens however the prompt was cut.
A generator on a CPU cannot be set back: "CPU Generator does not use offset", and the engine dies.

So what is thrown away is drawn from another generator here, and the request's own does not move.
"""

import multiprocessing
from typing import Any

import numpy as np
import torch
from vllm.platforms import current_platform


class DiscardGenerator(torch.Generator):
    """Whose numbers nobody uses, so that it need not go back."""

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> torch.Generator:
        return self


def patch_cpu_model_runner() -> None:
    """In an engine's process on a CPU: samples that are thrown away draw from another generator."""
    if multiprocessing.parent_process() is None or not current_platform.is_cpu():
        return
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    runner: Any = CPUModelRunner
    sample_tokens = runner.sample_tokens
    discard = DiscardGenerator()

    def sample_tokens_patched(self: Any, *args: Any, **more: Any) -> Any:
        generators = self.input_batch.generators
        discarded = self.discard_request_mask.np[: self.input_batch.num_reqs]
        unfinished = np.nonzero(discarded)[0].tolist()
        own = {row: generators[row] for row in unfinished if row in generators}
        generators.update(dict.fromkeys(own, discard))
        try:
            return sample_tokens(self, *args, **more)
        finally:
            generators.update(own)

    runner.sample_tokens = sample_tokens_patched
