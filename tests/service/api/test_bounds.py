"""What a body may have of fields, items and text; and that answers and logs stay short."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import structlog

from service.api.bodies import MAX_VALUES
from service.api.problems import MAX_ERRORS
from service.schemas import MAX_METADATA_CHARS
from service.settings import Settings
from tests.servers import Server
from tests.service.http import served

pytestmark = pytest.mark.asyncio

KEY = "s3cret-key"
MARK = "do not repeat me "
LONG = MARK * 20_000
SAMPLE = {"prompt": "?"}
PARTS = [{"type": "text", "text": ""}]


@pytest_asyncio.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings.model_validate(
        {"redis_url": server.url, "api_key": KEY, "max_text_chars": 50_000}
    )
    with served(settings) as url:
        headers = {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=url, timeout=60, headers=headers) as client:
            yield client


TOO_MUCH: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown fields": (
        "/sample",
        SAMPLE | {f"unknown-{i}": i for i in range(100_000)},
        "too_many_values",
    ),
    "some unknown fields": (
        "/sample",
        SAMPLE | {f"unknown-{i}": i for i in range(MAX_VALUES - 1)},
        "invalid_request",
    ),
    "a long name": ("/sample", SAMPLE | {LONG: 1}, "invalid_request"),
    "a long role": ("/sample", {"messages": [{"role": LONG, "content": ""}]}, "invalid_request"),
    "a long kind of part": (
        "/sample",
        {"messages": [{"role": "user", "content": [{"type": LONG}]}]},
        "invalid_request",
    ),
    "parts": (
        "/sample",
        {"messages": [{"role": "user", "content": PARTS * 300_000}]},
        "too_many_values",
    ),
    "messages": (
        "/sample",
        {"messages": [{"role": "x", "content": "x"}] * (MAX_VALUES // 3 - 1)},
        "invalid_request",
    ),
    "lists in lists": ("/logprobs", SAMPLE | {"responses": [[[]]] * 10_000}, "too_many_values"),
    "numbers": ("/sample", SAMPLE | {"stop": [0] * 50_000}, "invalid_request"),
    "wrong tokens": ("/logprobs", SAMPLE | {"responses": [[-1] * 30_000]}, "invalid_request"),
    "tokens": ("/logprobs", SAMPLE | {"responses": [[1] * 30_000] * 2}, "text_too_long"),
    "metadata": ("/sample", SAMPLE | {"metadata": {"a": LONG}}, "invalid_request"),
    "names in metadata": ("/sample", SAMPLE | {"metadata": {LONG: 1}}, "invalid_request"),
    "numbers in metadata": (
        "/sample",
        SAMPLE | {"metadata": {"a": [1] * (MAX_METADATA_CHARS + 1)}},
        "invalid_request",
    ),
    "a long run": ("/sample", SAMPLE | {"run": LONG}, "invalid_request"),
    "an annotator": ("/sample", SAMPLE | {"n": 2, "annotator": LONG}, "invalid_request"),
    "a long choice": ("/sample", SAMPLE | {"priority": LONG}, "invalid_request"),
    "a long image": ("/sample", SAMPLE | {"images": [LONG]}, "invalid_image"),
    "a long hash": ("/sample", SAMPLE | {"images": ["sha256:" + LONG]}, "invalid_image"),
    "a long URL": ("/sample", SAMPLE | {"images": ["x://" + LONG]}, "image_url_refused"),
    "a long prompt": ("/sample", {"prompt": LONG}, "text_too_long"),
    "a longer prompt": ("/sample", {"prompt": LONG * 10}, "invalid_request"),
    "commas": ("/sample", {"prompt": "," * 500_000}, "too_many_values"),
    "run settings": ("/runs/r", {f"{MARK}{i}": LONG for i in range(20)}, "invalid_request"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
async def test_too_much_is_refused_in_few_words(http: httpx.AsyncClient, name: str) -> None:
    path, body, code = TOO_MUCH[name]
    with structlog.testing.capture_logs() as logs:
        response = await http.request("PUT" if path == "/runs/r" else "POST", path, json=body)
    assert (response.status_code, response.json()["code"]) == (422, code)
    assert len(response.content) < 12_000
    assert len(response.json().get("errors") or []) <= MAX_ERRORS
    [line] = [line for line in logs if line["event"] == "refused"]
    assert (line["path"], line["status"], line["code"]) == (path, 422, code)
    assert line["reason"]
    assert len(json.dumps(logs)) < 5_000
    assert KEY not in json.dumps(logs)


async def test_what_is_within_the_bounds_passes(http: httpx.AsyncClient) -> None:
    texts = [{"type": "text", "text": ","}] * (MAX_VALUES // 3 - 10)
    for path, body in (
        ("/sample", {"messages": [{"role": "user", "content": texts}]}),
        ("/sample", {"prompt": "," * 50_000, "metadata": {"a": "," * (MAX_METADATA_CHARS - 1)}}),
        ("/sample", SAMPLE | {"metadata": {"a": [1] * 50_000, "b": [[{"c": None}]]}}),
        ("/logprobs", SAMPLE | {"responses": [[1] * 24_000] * 2}),
    ):
        response = await http.post(path, json=body)
        assert response.status_code == 202, response.text


async def test_every_refusal_is_logged_with_its_reason(http: httpx.AsyncClient) -> None:
    await http.put("/runs/full", json={"window": 1})
    await http.post("/sample", json=SAMPLE | {"run": "full"})
    key = {"Idempotency-Key": "k"}
    await http.post("/sample", json=SAMPLE, headers=key)
    plain = {"Content-Type": "application/json"}
    asked: list[tuple[int, str, str, dict[str, Any]]] = [
        (429, "POST", "/sample", {"json": SAMPLE | {"run": "full"}}),
        (409, "POST", "/sample", {"json": {"prompt": LONG[:9000]}, "headers": key}),
        (401, "GET", "/runs", {"headers": {"Authorization": f"Bearer {KEY}x"}}),
        (413, "POST", "/images", {"content": iter_of(b"x" * 2**20, 70)}),
        (404, "GET", "/jobs/" + "x" * 30_000, {}),
        (404, "GET", "/" + "x" * 30_000, {}),
        (405, "PATCH", "/runs", {}),
        (422, "POST", "/images", {"content": LONG.encode()}),
        (422, "GET", "/runs/r/pairs", {"params": {"after": "x" * 30_000}}),
        (400, "POST", "/sample", {"content": b'{"prompt": "' + LONG.encode(), "headers": plain}),
    ]
    for status, method, path, options in asked:
        with structlog.testing.capture_logs() as logs:
            response = await http.request(method, path, **options)
        assert response.status_code == status, response.text[:300]
        assert len(response.content) < 5_000
        [line] = [line for line in logs if line["event"] == "refused"]
        assert line["status"] == status
        assert line["reason"] == response.json()["detail"]
        assert KEY not in json.dumps(logs)
        assert len(json.dumps(logs)) < 5_000


async def iter_of(piece: bytes, times: int) -> AsyncIterator[bytes]:
    for _ in range(times):
        yield piece
