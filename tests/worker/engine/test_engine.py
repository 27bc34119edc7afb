"""The engine, beside what the other files hold of it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from vllm import SamplingParams
from vllm.outputs import RequestOutput
from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer

from service.schemas import BdhsRequest
from tests.worker.oracle import TOLERANCE, random_image
from worker import engine_policy
from worker.bdhs.corruption import ImageCorruption
from worker.engine import Engine, weight_spans
from worker.engine.early_stop import StopCheck, StopCheckDetokenizer

pytestmark = pytest.mark.asyncio


async def test_prompts_beyond_one_step_keep_their_seeds(engine: Engine) -> None:
    """Together they are far longer than what vLLM computes in a step."""
    vocabulary = range(10, 100)
    prompts = [[vocabulary[(i * j) % 90] for j in range(1, 401)] for i in range(1, 31)]

    async def write(prompt: list[int]) -> list[int]:
        params = SamplingParams(seed=1, max_tokens=8, ignore_eos=True)
        return list((await engine.generate(prompt, params)).outputs[0].token_ids)

    together = await asyncio.gather(*map(write, prompts))
    assert [len(tokens) for tokens in together] == [8] * len(prompts)
    assert await write(prompts[0]) == together[0]
    assert await write(prompts[-1]) == together[-1]


async def test_prompts_of_several_requests_are_rated_at_once(engine: Engine) -> None:
    """As `guidance=token` needs it."""
    prompts = [[10 + i * j % 90 for j in range(1, 10 + 7 * i)] for i in range(1, 9)]

    async def rate(prompt: list[int]) -> list[float]:
        params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1)
        rated = (await engine.generate(prompt, params)).prompt_logprobs or []
        return [place[token].logprob for place, token in zip(rated, prompt, strict=True) if place]

    together = await asyncio.gather(*map(rate, prompts))
    for prompt, rated in zip(prompts, together, strict=True):
        np.testing.assert_allclose(rated, await rate(prompt), atol=TOLERANCE, rtol=0)


async def test_a_stop_check_sees_every_token_and_ends_at_any(engine: Engine) -> None:
    prompt = list(range(10, 40))

    def params(**more: Any) -> SamplingParams:
        return SamplingParams(seed=3, max_tokens=40, ignore_eos=True, **more)

    [whole] = (await engine.generate(prompt, params())).outputs
    seen: list[str] = []

    def ten(text: str) -> bool:
        seen.append(text)
        return len(text) >= 10

    [ended] = (await engine.generate(prompt, params(), stop_check=ten)).outputs
    assert len(seen[-2]) < 10 <= len(seen[-1])
    assert ended.text == seen[-1]
    assert ended.finish_reason == "stop"
    assert list(ended.token_ids) == list(whole.token_ids)[: len(seen)]
    assert [(s.start, s.end) for s in weight_spans(ended, None)] == [(0, len(seen))]
    several = (await engine.generate(prompt, params(n=3), stop_check=ten)).outputs
    assert len({tuple(answer.token_ids) for answer in several}) == 3
    assert all(answer.finish_reason == "stop" for answer in several)


async def test_a_cancelled_request_leaves_nothing_running(engine: Engine) -> None:
    begun = asyncio.Event()

    def stop_check(_: str) -> bool:
        begun.set()
        return False

    params = SamplingParams(n=2, max_tokens=400, ignore_eos=True)
    request = asyncio.create_task(engine.generate([10, 11], params, stop_check=stop_check))
    await begun.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert engine._running().get_num_unfinished_requests() == 0


async def test_of_several_tokens_at_once_those_after_the_end_are_dropped(engine: Engine) -> None:
    """As an engine that speculates sends them."""
    tokens = engine.inputs.renderer.tokenizer.encode("One. Two.", add_special_tokens=False)
    request: Any = SimpleNamespace(
        request_id="r", sampling_params=SamplingParams(), prompt_token_ids=[]
    )
    within = FastIncrementalDetokenizer(engine.inputs.renderer.tokenizer, request)
    checked = StopCheckDetokenizer(within, lambda text: "." in text)
    assert checked.update(tokens, stop_terminated=False)
    assert checked.get_next_output_text(finished=True, delta=False) == "One."
    assert checked.output_token_ids == tokens[: checked.num_output_tokens()]
    assert 0 < checked.num_output_tokens() < len(tokens)


@pytest.mark.parametrize("min_tokens", [1, 10_000])
async def test_of_sentences_under_one_large_view_the_first_starts_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, min_tokens: int
) -> None:
    """The others find its image computed."""
    monkeypatch.setattr(engine_policy, "PREFIX_CACHE_MIN_TOKENS", min_tokens)
    seen: list[str] = []
    generate = engine.generate

    async def spied(*args: Any, stop_check: StopCheck, **more: Any) -> RequestOutput:
        def spy(text: str) -> bool:
            seen.append("token")
            return stop_check(text)

        seen.append("start")
        return await generate(*args, stop_check=spy, **more)

    monkeypatch.setattr(engine, "generate", spied)
    image = random_image(80, 150, 1)
    reference = "There is a red circle. There is a blue square. There is a star."
    request = BdhsRequest(
        prompt="Describe.", images=["sha256:" + "0" * 64], reference=reference, max_tokens=4
    )
    bound = await engine_policy.EnginePolicy.create(engine, request, [image])
    corruption = [ImageCorruption(range(bound.images[0].tokens))]
    written = await asyncio.gather(
        *(
            bound.complete(reference, cut, corruptions=corruption, seed=1, sentence_end=None)
            for cut in (5, 30, 50)
        )
    )
    assert len(written) == 3
    assert seen[: 4 if min_tokens == 1 else 3] == (
        ["start", "token", "start", "start"] if min_tokens == 1 else ["start"] * 3
    )
