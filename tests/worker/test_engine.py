"""The engine, beside what the other files hold of it."""

import asyncio
from contextlib import aclosing

import pytest
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from worker.engine import Engine

pytestmark = pytest.mark.asyncio


async def test_prompts_beyond_one_step_keep_their_seeds(engine: Engine) -> None:
    """Together they are far longer than what vLLM computes in a step."""
    vocabulary = range(10, 100)
    prompts = [[vocabulary[(i * j) % 90] for j in range(1, 401)] for i in range(1, 31)]

    async def write(prompt: list[int]) -> list[int]:
        params = SamplingParams(
            seed=1, max_tokens=8, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY
        )
        async with aclosing(engine.generate(prompt, params)) as outputs:
            async for output in outputs:
                written = list(output.outputs[0].token_ids)
        return written

    together = await asyncio.gather(*map(write, prompts))
    assert [len(tokens) for tokens in together] == [8] * len(prompts)
    assert await write(prompts[0]) == together[0]
    assert await write(prompts[-1]) == together[-1]
