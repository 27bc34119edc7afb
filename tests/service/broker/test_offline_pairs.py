"""Pairs of data sets, appended to a run as they are."""

import httpx
import pytest

from service.broker import Broker, ImageGone, PairConflict, WindowFull
from service.client import AsyncClient, image_data
from service.schemas import LeaseRequest, PairRequest, RunSettings
from tests.servers import Server
from tests.service.samples import append, png

pytestmark = pytest.mark.asyncio


def pair(number: int = 0, **fields: object) -> PairRequest:
    return PairRequest.model_validate(
        {"prompt": "?", "chosen": f"Yes, {number}.", "rejected": "No.", **fields}
    )


async def test_offline_pairs_keep_their_order_among_others(broker: Broker) -> None:
    [made] = await append(broker, 1)
    for number in range(2):
        appended = await broker.runs.append("r", pair(number, pair_id=f"p{number}"))
        assert (appended.pair_id, appended.repeated) == (f"p{number}", False)
    page = await broker.runs.pairs("r", None, 10)
    assert [p.pair_id for p in page.pairs] == [made, "p0", "p1"]
    last = page.pairs[-1]
    assert (last.method, last.chosen_version, last.rejected_version) == ("offline", None, None)
    batch = await broker.batches.lease("r", LeaseRequest(size=3))
    assert batch
    assert [delivery.staleness for delivery in batch.deliveries] == [0, None, None]
    await broker.batches.ack("r", batch.lease)


async def test_a_pair_given_twice_is_appended_once(broker: Broker) -> None:
    first = await broker.runs.append("r", pair(pair_id="p"))
    again = await broker.runs.append("r", pair(pair_id="p"))
    assert (first.repeated, again.repeated) == (False, True)
    with pytest.raises(PairConflict, match="another pair under the id 'p'"):
        await broker.runs.append("r", pair(1, pair_id="p"))
    assert not (await broker.runs.append("other", pair(1, pair_id="p"))).repeated
    assert len((await broker.runs.pairs("r", None, 10)).pairs) == 1
    await broker.runs.delete("r")
    assert not (await broker.runs.append("r", pair(pair_id="p"))).repeated, "it is another run"


async def test_the_window_counts_them(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(window=2))
    for number in range(2):
        await broker.runs.append("r", pair(number))
    with pytest.raises(WindowFull):
        await broker.runs.append("r", pair(2))
    assert await broker.batches.lease("r", LeaseRequest(size=1))
    await broker.runs.append("r", pair(2))


async def test_their_images_must_be_stored(broker: Broker) -> None:
    with pytest.raises(ImageGone):
        await broker.runs.append("r", pair(images=["sha256:" + "0" * 64]))
    assert await broker.runs.get("r") is not None  # the window was looked at first
    ref = await broker.images.put(png())
    await broker.runs.append("r", pair(images=[ref]))


async def test_over_http(http: httpx.AsyncClient) -> None:
    body = {"prompt": "?", "images": [image_data(png())], "chosen": "Yes.", "rejected": "No."}
    answer = await http.post("/runs/r/pairs", json=body | {"pair_id": "p"})
    assert (answer.status_code, answer.json()["repeated"]) == (201, False)
    again = await http.post("/runs/r/pairs", json=body | {"pair_id": "p"})
    assert (again.status_code, again.json()["repeated"]) == (200, True)
    [read] = (await http.get("/runs/r/pairs")).json()["pairs"]
    assert (await http.get(f"/images/{read['images'][0]}")).content == png()
    for fields, reason in (
        ({"rejected": "Yes."}, "same text"),
        ({"chosen": " "}, "`chosen` is empty"),
        ({"chosen": "y" * 2000}, "2004 characters"),
        ({"pair_id": "a b"}, "pair_id"),
    ):
        refused = await http.post("/runs/r/pairs", json=body | fields)
        assert refused.status_code == 422
        assert reason in refused.json()["detail"]
    await http.put("/runs/r", json={"window": 1})
    full = await http.post("/runs/r/pairs", json=body)
    assert (full.status_code, full.headers["Retry-After"]) == (429, "1")


@pytest.mark.parametrize("transport", ["http", "redis"])
async def test_with_the_client(transport: str, url: str, server: Server) -> None:
    async with AsyncClient(url if transport == "http" else server.url) as client:
        appended = await client.append("r", pair(images=[image_data(png())]))
        assert not appended.repeated
        [read] = [p async for p in client.pairs("r")]
        assert (read.pair_id, read.method) == (appended.pair_id, "offline")
        assert await client.image(read.images[0]) == png()
