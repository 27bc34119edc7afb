"""Whatever the schema takes of sampling settings, vLLM takes, too."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from vllm import SamplingParams

from service.broker import Broker
from service.schemas import JobStatus, SampleRequest
from service.settings import Settings
from tests.worker.jobs import ended, submit, working
from worker.embedder import Embedder
from worker.engine import Engine, RequestRefused
from worker.engine_policy import sampling_params

INTEGERS = st.integers() | st.sampled_from([0, 1, 2, 64, 2**31 - 1, 2**31, 2**63 - 1, 2**63])
NUMBERS = st.floats() | st.sampled_from([0, 5e-324, 1e-9, 1, 1.5, 2, 2.5, 10])
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": NUMBERS,
        "top_p": NUMBERS,
        "min_p": NUMBERS,
        "top_k": INTEGERS,
        "max_tokens": INTEGERS,
        "n": INTEGERS,
        "seed": INTEGERS,
        "logprobs": INTEGERS,
        "stop": st.lists(st.text(max_size=3), max_size=20),
    },
)


def params_of(request: SampleRequest) -> SamplingParams:
    return sampling_params(
        request, seed=request.seed or 0, n=request.n, stop=request.stop, logprobs=request.logprobs
    )


@given(SETTINGS)
def test_vllm_takes_what_the_schema_takes(settings: dict[str, Any]) -> None:
    try:
        request = SampleRequest.model_validate({"prompt": "?", **settings})
    except ValidationError:
        return
    params = params_of(request)
    assert msgspec.msgpack.encode(params), "as it goes to the engine's process"
    assert params.top_k < 2**31


def test_another_rule_of_vllm_is_a_refusal() -> None:
    with pytest.raises(RequestRefused, match="temperature"):
        sampling_params(SampleRequest.model_construct(temperature=2.5), seed=1)


EXTREMES: dict[str, dict[str, Any]] = {
    "most answers": {"n": 64},
    "all filters": {"top_p": 1e-9, "top_k": 2**31 - 1, "min_p": 1, "n": 2, "temperature": 2},
    "denormal": {"top_p": 5e-324, "temperature": 5e-324, "min_p": 5e-324, "n": 2},
    "greedy": {"temperature": 0, "top_p": 1e-9, "top_k": 3, "min_p": 1},
    "alternatives": {"logprobs": 20, "top_k": 1, "seed": 2**63 - 1},
    "stops": {"stop": ["\0", *["x" * 5_000] * 15]},
}


async def test_the_extremes_of_what_is_taken_run(
    settings: Settings, engine: Engine, embedder: Embedder
) -> None:
    async with Broker.connect(settings) as broker, working(settings, engine, embedder):
        for name, fields in EXTREMES.items():
            body = {"prompt": "Describe.", "max_tokens": 3, **fields}
            job_id = await submit(
                broker,
                lambda ref, body=body: SampleRequest.model_validate({**body, "images": [ref]}),
            )
            job = await ended(broker, job_id)
            assert (job.status, job.attempt) == (JobStatus.succeeded, 1), (name, job.error)
