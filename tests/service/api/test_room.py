"""Who finds no room is told so before anything is done for it."""

import base64
import hashlib
from typing import Any

import httpx
import pytest

from service.broker import Broker
from service.client import AsyncClient, WindowFull
from service.schemas import RunSettings, SampleRequest
from service.settings import Settings
from tests.servers import Server
from tests.service.http import served
from tests.service.samples import png

pytestmark = pytest.mark.asyncio

BLUE = base64.b64encode(png("blue")).decode()
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "sample": ("/sample", {"prompt": "?", "run": "r"}),
    "bdhs": ("/bdhs", {"prompt": "?", "reference": "A square.", "run": "r"}),
    "logprobs": ("/logprobs", {"prompt": "?", "responses": ["A square."]}),
    "pair": ("/runs/r/pairs", {"prompt": "?", "chosen": "A square.", "rejected": "A circle."}),
}


async def is_stored(worker: Broker, content: bytes) -> bool:
    return await worker.images.exists("sha256:" + hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("name", ["sample", "bdhs", "pair"])
async def test_a_full_window_decodes_and_stores_nothing(
    http: httpx.AsyncClient, worker: Broker, name: str
) -> None:
    await worker.runs.put("r", RunSettings(window=1))
    assert (await http.post("/sample", json={"prompt": "?", "run": "r"})).status_code == 202
    path, body = BODIES[name]
    for image in (BLUE, "AAAA"):  # the second is no image, which nobody has found out
        full = await http.post(path, json=body | {"images": [image]})
        assert (full.status_code, full.json()["code"]) == (429, "window_full")
        assert int(full.headers["Retry-After"]) >= 1
    assert not await is_stored(worker, png("blue"))
    other = await http.post("/sample", json={"prompt": "?", "run": "s", "images": [BLUE]})
    assert other.status_code == 202, "another run has room"


@pytest.mark.parametrize("name", ["sample", "bdhs", "logprobs"])
async def test_a_full_queue_decodes_and_stores_nothing(server: Server, name: str) -> None:
    settings = Settings.model_validate({"redis_url": server.url, "max_queue_depth": 1})
    with served(settings) as url:
        async with (
            httpx.AsyncClient(base_url=url, timeout=30) as http,
            Broker.connect(settings) as worker,
        ):
            key = {"Idempotency-Key": "k"}
            path, body = BODIES[name]
            red = body | {"images": [base64.b64encode(png()).decode()]}
            first = await http.post(path, json=red, headers=key)
            assert first.status_code == 202
            full = await http.post(path, json=body | {"images": [BLUE]})
            assert (full.status_code, full.json()["code"]) == (429, "queue_full")
            assert not await is_stored(worker, png("blue"))
            again = await http.post(path, json=red, headers=key)
            assert again.json()["id"] == first.json()["id"], "a job that is known needs no room"


async def test_a_pair_that_is_known_needs_no_room(http: httpx.AsyncClient, worker: Broker) -> None:
    await worker.runs.put("r", RunSettings(window=1))
    path, body = BODIES["pair"]
    body = body | {"images": [BLUE], "pair_id": "p"}
    assert (await http.post(path, json=body)).status_code == 201
    assert (await http.post(path, json=body)).json()["repeated"]
    assert (await http.post(path, json=body | {"pair_id": "q"})).status_code == 429


async def test_clients_on_redis_are_told_too(server: Server, worker: Broker) -> None:
    await worker.runs.put("r", RunSettings(window=1))
    async with AsyncClient(server.url, retry_for_s=0) as client:
        await client.sample(SampleRequest(prompt="?", run="r"))
        with pytest.raises(WindowFull):
            await client.sample(SampleRequest(prompt="?", run="r", images=[BLUE]))
        assert not await is_stored(worker, png("blue"))
