"""The engine, beside what the other files hold of it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from service.schemas import BdhsRequest
from tests.worker.oracle import TOLERANCE, picture
from worker import policy
from worker.bdhs.policy import View
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


async def test_prompts_of_several_requests_are_rated_at_once(engine: Engine) -> None:
    """As `guidance=token` needs it."""
    prompts = [[10 + i * j % 90 for j in range(1, 10 + 7 * i)] for i in range(1, 9)]

    async def rate(prompt: list[int]) -> list[float]:
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
        async with aclosing(engine.generate(prompt, params)) as outputs:
            async for output in outputs:
                rated = output.prompt_logprobs or []
        return [place[token].logprob for place, token in zip(rated, prompt, strict=True) if place]

    together = await asyncio.gather(*map(rate, prompts))
    for prompt, rated in zip(prompts, together, strict=True):
        np.testing.assert_allclose(rated, await rate(prompt), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("ahead", [1, 10_000])
async def test_of_sentences_under_one_large_view_the_first_goes_ahead(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """The others find its image computed."""
    monkeypatch.setattr(policy, "AHEAD", ahead)
    seen: list[str] = []
    generate = engine.generate

    async def spied(*args: Any, **more: Any) -> AsyncGenerator[Any]:
        seen.append("start")
        async with aclosing(generate(*args, **more)) as outputs:
            async for output in outputs:
                seen.append("output")
                yield output

    monkeypatch.setattr(engine, "generate", spied)
    image = picture(80, 150, 1)
    reference = "There is a red circle. There is a blue square. There is a star."
    request = BdhsRequest(
        prompt="Describe.", images=["sha256:" + "0" * 64], reference=reference, max_tokens=4
    )
    bound = policy.EnginePolicy(engine, request, image)
    view = View(list(range(engine.image_tokens(image))))
    written = await asyncio.gather(
        *(
            bound.complete(reference, cut, view=view, seed=1, sentence_end=None)
            for cut in (5, 30, 50)
        )
    )
    assert len(written) == 3
    assert seen[: 4 if ahead == 1 else 3] == (
        ["start", "output", "start", "start"] if ahead == 1 else ["start"] * 3
    )
