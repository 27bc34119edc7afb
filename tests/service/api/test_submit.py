"""POST /sample and POST /bdhs, over real HTTP."""

import asyncio
import base64
import io
import json
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from PIL import Image

from service.broker import Broker
from service.schemas import BdhsRequest, Job, JobError, RunSettings
from tests.service.samples import bdhs_result, claim_one, png, sample_result

pytestmark = pytest.mark.asyncio

RED = base64.b64encode(png()).decode()
BDHS = {"prompt": "What is this?", "reference": "A red square.", "images": [RED]}
SAMPLE = {"prompt": "What is this?"}


def bomb() -> str:
    """A PNG of a few bytes that says it is 100,000 pixels wide and high."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + data).decode()


def animated() -> str:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, format="WEBP", save_all=True, append_images=frames[1:])
    return base64.b64encode(buffer.getvalue()).decode()


def gif() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, format="GIF")
    return base64.b64encode(buffer.getvalue()).decode()


async def test_a_job_is_accepted_and_can_be_looked_at(http: httpx.AsyncClient) -> None:
    response = await http.post("/bdhs", json=BDHS | {"run": "r", "metadata": {"a": 1}})
    assert response.status_code == 202
    job = Job.model_validate_json(response.content)
    assert response.headers["Location"] == f"/jobs/{job.id}"
    seen = await http.get(response.headers["Location"])
    assert Job.model_validate_json(seen.content) == job
    assert (await http.get("/runs/r")).json()["open_jobs"] == 1


async def test_the_worker_gets_hashes_and_the_same_image_is_one(
    http: httpx.AsyncClient, worker: Broker
) -> None:
    for image in (RED, f"data:image/png;base64,{RED}"):
        assert (await http.post("/bdhs", json=BDHS | {"images": [image]})).status_code == 202
    first, second = await worker.claims.claim("w1", 2, block_s=5)
    assert first.request.images == second.request.images
    [ref] = first.request.images
    assert await worker.images.get(ref) == png()
    by_name = await http.post("/bdhs", json=BDHS | {"images": [ref]})
    assert by_name.status_code == 202
    image = await http.get(f"/images/{ref}")
    assert (image.content, image.headers["Content-Type"]) == (png(), "image/png")


@pytest.mark.parametrize("how", ["query", "header"])
async def test_a_caller_who_waits_gets_the_result(
    http: httpx.AsyncClient, worker: Broker, how: str
) -> None:
    waiting = asyncio.create_task(
        http.post("/sample", json=SAMPLE, params={"wait_s": 20})
        if how == "query"
        else http.post("/sample", json=SAMPLE, headers={"Prefer": "respond-async, wait=20"})
    )
    await worker.claims.finish(await claim_one(worker), sample_result())
    response = await waiting
    assert response.status_code == 200
    assert response.json()["result"] == sample_result().model_dump(mode="json")


async def test_a_caller_who_waits_in_vain_gets_202(http: httpx.AsyncClient) -> None:
    response = await http.post("/sample?wait_s=0.05", json=SAMPLE)
    assert response.status_code == 202
    assert response.json()["status"] == "queued"


async def test_a_caller_who_waits_gets_the_models_refusal_as_422(
    http: httpx.AsyncClient, worker: Broker
) -> None:
    waiting = asyncio.create_task(http.post("/sample?wait_s=20", json=SAMPLE))
    claim = await claim_one(worker)
    error = JobError(
        code="prompt_too_long", message="9 tokens, of 8.", details={"tokens": 9, "limit": 8}
    )
    await worker.claims.fail(claim, error)
    response = await waiting
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Location"] == f"/jobs/{claim.job_id}"
    assert response.json() == {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "code": "prompt_too_long",
        "detail": "9 tokens, of 8.",
        "job_id": claim.job_id,
        "details": {"tokens": 9, "limit": 8},
    }


async def test_the_same_key_returns_the_first_job(http: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k"}
    first = await http.post("/bdhs", json=BDHS, headers=headers)
    ref = "sha256:" + (await http.post("/images", content=png())).json()["image"][7:]
    again = await http.post("/bdhs", json=BDHS | {"images": [ref]}, headers=headers)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    other = await http.post("/bdhs", json=BDHS | {"rho": 0.5}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")


async def test_a_full_window_says_when_to_come_back(
    http: httpx.AsyncClient, worker: Broker
) -> None:
    await http.put("/runs/r", json={"window": 1})
    assert (await http.post("/bdhs", json=BDHS | {"run": "r"})).status_code == 202
    full = await http.post("/bdhs", json=BDHS | {"run": "r"})
    assert (full.status_code, full.json()["code"]) == (429, "window_full")
    assert int(full.headers["Retry-After"]) >= 1
    await worker.runs.put("r", RunSettings(window=2))
    assert (await http.post("/bdhs", json=BDHS | {"run": "r"})).status_code == 202


MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]

BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "no image": ("/bdhs", BDHS | {"images": []}, "BDHS needs an image to spoil"),
    "an image beyond": (
        "/bdhs",
        BDHS | {"images": [RED, RED], "corrupt_images": [0, 2]},
        "`corrupt_images` names 2, and the 2 images are numbered from 0 to 1",
    ),
    "an image twice": ("/bdhs", BDHS | {"corrupt_images": [0, 0]}, "names an image twice"),
    "no image of them": ("/bdhs", BDHS | {"corrupt_images": []}, "body.corrupt_images: "),
    "empty reference": ("/bdhs", BDHS | {"reference": " "}, "`reference` is empty"),
    "no reference": ("/bdhs", {"prompt": "?", "images": [RED]}, "body.reference: Field required"),
    "rho above 1": ("/bdhs", BDHS | {"rho": 1.01}, "body.rho: "),
    "rho below 0": ("/bdhs", BDHS | {"rho": -0.01}, "body.rho: "),
    "unknown field": ("/bdhs", BDHS | {"rhoo": 1}, "body.rhoo: Extra inputs"),
    "unknown corruption": ("/bdhs", BDHS | {"corruption": "x"}, "body.corruption: "),
    "prompt and messages": ("/bdhs", BDHS | {"messages": MESSAGES}, "give either"),
    "neither": ("/sample", {}, "give either `prompt` or `messages`"),
    "blank prompt": ("/sample", {"prompt": "\n"}, "`prompt` is empty"),
    "missing image": ("/sample", {"messages": MESSAGES}, "has 1 image parts, and `images` has 0"),
    "too many images": ("/sample", SAMPLE | {"images": [RED] * 3}, "at most 2"),
    "not base64": ("/bdhs", BDHS | {"images": ["%%%"]}, "Neither a data URI, nor base64"),
    "not an image": ("/bdhs", BDHS | {"images": ["aGVsbG8="]}, "5 bytes are no PNG"),
    "empty image": ("/bdhs", BDHS | {"images": [""]}, "0 bytes are no PNG"),
    "half an image": ("/bdhs", BDHS | {"images": [RED[:60]]}, "do not decode as a PNG"),
    "data URI without base64": ("/bdhs", BDHS | {"images": ["data:,x"]}, "A data URI must be"),
    "URL": ("/bdhs", BDHS | {"images": ["https://e.org/i.png"]}, "never fetched"),
    "file URL": ("/bdhs", BDHS | {"images": ["file:///etc/passwd"]}, "never fetched"),
    "short hash": ("/bdhs", BDHS | {"images": ["sha256:ab"]}, "64 lower-case hexadecimal"),
    "unknown hash": ("/bdhs", BDHS | {"images": ["sha256:" + "0" * 64]}, "No image sha256:000"),
    "bomb": ("/bdhs", BDHS | {"images": [bomb()]}, "decompression bomb"),
    "many pixels": (
        "/bdhs",
        BDHS | {"images": [base64.b64encode(png(size=(101, 100))).decode()]},
        "101×100 = 10100 pixels; at most 10000",
    ),
    "many bytes": ("/bdhs", BDHS | {"images": ["A" * 70_000]}, "at most 50000"),
    "animated": ("/bdhs", BDHS | {"images": [animated()]}, "animated (2 frames)"),
    "GIF": ("/bdhs", BDHS | {"images": [gif()]}, "are no PNG, JPEG or WEBP"),
    "long text": ("/sample", {"prompt": "x" * 1001}, "1001 characters of text; at most 1000"),
    "bad run name": ("/sample", SAMPLE | {"run": "a/b"}, "body.run: "),
    "negative seed": ("/sample", SAMPLE | {"seed": -1}, "body.seed: "),
    "huge seed": ("/sample", SAMPLE | {"seed": 2**63}, "body.seed: "),
    "hot": ("/sample", SAMPLE | {"temperature": 2.01}, "body.temperature: "),
    "hot BDHS": ("/bdhs", BDHS | {"temperature": 2.5}, "body.temperature: "),
    "equal answers": ("/sample", SAMPLE | {"temperature": 0, "n": 2}, "`temperature` 0 all"),
    "an empty stop": ("/sample", SAMPLE | {"stop": [".", ""]}, "body.stop.1: "),
    "too many stops": ("/sample", SAMPLE | {"stop": ["."] * 17}, "body.stop: "),
    "top_k beyond int32": ("/sample", SAMPLE | {"top_k": 2**31}, "body.top_k: "),
    "top_k beyond a word": ("/bdhs", BDHS | {"top_k": 10**30}, "body.top_k: "),
    "top_p of zero": ("/sample", SAMPLE | {"top_p": 0}, "body.top_p: "),
    "min_p above 1": ("/sample", SAMPLE | {"min_p": 1.1}, "body.min_p: "),
    "a version beyond all": (
        "/sample",
        SAMPLE | {"weight_version": 10**30},
        "body.weight_version: ",
    ),
    "n of zero": ("/sample", SAMPLE | {"n": 0}, "body.n: "),
    "start ratio for nothing": (
        "/bdhs",
        BDHS | {"start_ratio": 0.4},
        "`start_ratio` has no effect with `guidance` = sentence",
    ),
    "logps without a pair": ("/sample", SAMPLE | {"logps": True}, "`logps` has no effect without"),
    "nothing to go on from": (
        "/sample",
        {"messages": MESSAGES, "images": [RED], "continue_final_message": True},
        "must be of role assistant",
    ),
    "nothing to score": ("/logprobs", SAMPLE | {"responses": []}, "body.responses: "),
    "no token": ("/logprobs", SAMPLE | {"responses": [[]]}, "body.responses.0"),
    "a negative token": ("/logprobs", SAMPLE | {"responses": [[-1]]}, "body.responses.0"),
    "empty, without an end": (
        "/logprobs",
        SAMPLE | {"responses": [""], "ended": False},
        "nothing to score",
    ),
    "a view of no image": (
        "/logprobs",
        SAMPLE | {"responses": ["x"], "views": [{"rho": 1}]},
        "`views` has no effect without an image",
    ),
    "scored for a run": (
        "/logprobs",
        SAMPLE | {"responses": ["x"], "run": "r"},
        "`run` has no effect",
    ),
    "long response": (
        "/logprobs",
        SAMPLE | {"responses": ["x" * 1000]},
        "1013 characters of text; at most 1000",
    ),
    "zero deadline": ("/sample", SAMPLE | {"deadline_s": 0}, "body.deadline_s: "),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_input_is_answered_clearly(http: httpx.AsyncClient, name: str) -> None:
    path, body, says = BAD[name]
    response = await http.post(path, json=body)
    assert response.status_code == 422, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert says in response.json()["detail"]
    assert RED[:40] not in response.text, "an answer must not repeat an image"


RAW: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 422),
    "no JSON": (b"{", 400),
    "lone surrogate": (b'{"prompt": "\\ud800"}', 400),
    "no UTF-8": (b'{"prompt": "\xff"}', 400),
    "NaN": (b'{"prompt": "x", "temperature": NaN}', 400),
    "infinity": (b'{"prompt": "x", "metadata": {"a": 1e999}}', 422),
    "deep": (b'{"prompt": "x", "metadata": {"a": ' + b"[" * 5000 + b"]" * 5000 + b"}}", 400),
    "huge number": (b'{"prompt": "x", "n": ' + b"9" * 5000 + b"}", 400),
    "list": (b"[1]", 422),
    "null": (b"null", 422),
    "string": (b'"x"', 422),
}


@pytest.mark.parametrize("name", RAW)
async def test_no_body_is_a_server_error(http: httpx.AsyncClient, name: str) -> None:
    content, status = RAW[name]
    response = await http.post(
        "/sample", content=content, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == status, response.text
    assert response.json()["detail"]


async def test_zero_bytes_in_text_are_kept(http: httpx.AsyncClient, worker: Broker) -> None:
    response = await http.post(
        "/sample", json={"prompt": "a\x00b ⊥ 🙂", "metadata": {"\x00": "\x00"}}
    )
    assert response.status_code == 202
    claim = await claim_one(worker)
    assert claim.request.prompt == "a\x00b ⊥ 🙂"
    assert (await http.get(f"/jobs/{claim.job_id}")).json()["metadata"] == {"\x00": "\x00"}


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_has_a_limit(http: httpx.AsyncClient, chunked: bool) -> None:
    body = json.dumps({"prompt": "x", "metadata": {"a": "x" * 150_000}}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    response = await http.post(
        "/sample",
        content=pieces() if chunked else body,
        headers={"Content-Type": "application/json"},
    )
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


async def test_pairs_come_out(http: httpx.AsyncClient, worker: Broker) -> None:
    await http.post("/bdhs", json=BDHS | {"run": "r"})
    claim = await claim_one(worker)
    assert isinstance(claim.request, BdhsRequest)
    await worker.claims.finish(claim, bdhs_result(claim))
    page = (await http.get("/runs/r/pairs")).json()
    assert [pair["pair_id"] for pair in page["pairs"]] == [claim.job_id]
    rest = await http.get("/runs/r/pairs", params={"after": page["cursor"]})
    assert rest.json() == {"pairs": [], "cursor": page["cursor"]}
