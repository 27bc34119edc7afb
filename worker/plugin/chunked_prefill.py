"""Prompts that vLLM computes in pieces, on a CPU.

A long prompt, and one whose image does not fit into a step any more, is computed over several
steps. vLLM samples after each of them, throws away what is not the last one's, and sets the
request's random generator back, so that the seed gives the same tokens however the prompt was cut.
A generator on a CPU cannot be set back: "CPU Generator does not use offset", and the engine dies.

So what is thrown away is drawn from another generator here, and the request's own does not move.
"""

import multiprocessing
from typing import Any

import numpy as np
import torch
from vllm.platforms import current_platform


class Scratch(torch.Generator):
    """Whose numbers nobody uses, so that it need not go back."""

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> torch.Generator:
        return self


def draw_pieces_apart() -> None:
    """In an engine's process on a CPU: teach the model runner."""
    if multiprocessing.parent_process() is None or not current_platform.is_cpu():
        return
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    runner: Any = CPUModelRunner
    sample_tokens = runner.sample_tokens
    scratch = Scratch()

    def apart(self: Any, *args: Any, **more: Any) -> Any:
        generators = self.input_batch.generators
        pieces = np.nonzero(self.discard_request_mask.np[: self.input_batch.num_reqs])[0].tolist()
        own = {row: generators[row] for row in pieces if row in generators}
        generators.update(dict.fromkeys(own, scratch))
        try:
            return sample_tokens(self, *args, **more)
        finally:
            generators.update(own)

    runner.sample_tokens = apart
