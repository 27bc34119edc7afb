"""Any text in any field: taken as it is, and read back as it was; or refused. Never a failure."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ODD = ["\x00", "\x1b[31m", "\u2028", "\ufeff", "\u202e", "</s>", "<|im_end|>", "<image>", "e\u0301"]

texts = st.lists(st.text(max_size=20) | st.sampled_from(ODD), max_size=8).map("".join)
"""Every character that can be sent, and some that mean more to others than to us."""

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def conversation(texts: list[str]) -> list[dict[str, Any]]:
    roles = ["system", "user", "assistant", "user"]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


REQUESTS: dict[str, tuple[str, Callable[[list[str]], dict[str, Any]]]] = {
    "sample": ("/sample", lambda t: {"prompt": conversation(t)}),
    "stop": ("/sample", lambda t: {"prompt": t[0], "stop": t[1:]}),
    "bdhs": ("/bdhs", lambda t: {"prompt": t[0], "reference": t[1]}),
    "logprobs": ("/logprobs", lambda t: {"prompt": t[0], "responses": t[1:]}),
    "pair": ("/runs/r/pairs", lambda t: {"prompt": t[0], "chosen": t[1], "rejected": t[2]}),
}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", REQUESTS)
@given(
    sent=st.lists(texts, min_size=4, max_size=4),
    metadata=st.dictionaries(texts, values, max_size=3),
)
def test_any_text_is_taken_or_refused(
    client: httpx.Client, name: str, sent: list[str], metadata: dict[str, Any]
) -> None:
    path, body_of = REQUESTS[name]
    body = body_of(sent) | {"metadata": metadata}
    answer = client.post(path, json=body)
    assert answer.status_code < 500, answer.text
    assert len(answer.content) < 5_000
    if answer.status_code != 202:
        return
    job = client.get(answer.headers["Location"]).json()
    assert json.dumps(job["metadata"], sort_keys=True) == json.dumps(
        body["metadata"], sort_keys=True
    )
    assert client.delete(answer.headers["Location"]).status_code < 300


def in_order(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
