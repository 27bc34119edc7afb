"""A run's filters over HTTP, and what they left out."""

import httpx
import pytest

from service.broker import Broker
from service.client import AsyncClient
from service.schemas import Bounds, PairFilters, RunSettings
from tests.servers import Server
from tests.service.samples import bdhs_result, claim_one, enqueue_bdhs

STRICT = {"similar": "drop", "filters": {"similarity": {"max": 0.6}, "finish_reasons": ["stop"]}}


async def test_filters_are_set_and_told(http: httpx.AsyncClient) -> None:
    told = (await http.put("/runs/r", json=STRICT)).json()["settings"]
    assert told["similar"] == "drop"
    assert told["filters"]["similarity"] == {"min": None, "max": 0.6}
    assert told["filters"]["finish_reasons"] == ["stop"]
    assert told["filters"]["token_ratio"] is None
    assert (await http.get("/runs/r")).json()["settings"] == told
    wider = (await http.put("/runs/r", json={"window": 7})).json()["settings"]
    assert wider == told | {"window": 7}
    anew = (await http.put("/runs/r", json={"filters": {}})).json()["settings"]
    assert anew["filters"]["similarity"] is None
    assert (anew["window"], anew["similar"]) == (7, "drop")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"filters": {"similarity": {"min": 0.9, "max": 0.1}}}, "`min` is above `max`"),
        ({"filters": {"beauty": {"min": 1}}}, "beauty"),
        ({"filters": {"finish_reasons": []}}, "finish_reasons"),
        ({"filters": {"similarity": {"max": "much"}}}, "similarity"),
        ({"similar": "perhaps"}, "similar"),
    ],
)
async def test_filters_that_make_no_sense_are_refused(
    http: httpx.AsyncClient, settings: dict[str, object], reason: str
) -> None:
    refused = await http.put("/runs/r", json=settings)
    assert refused.status_code == 422
    assert reason in refused.text


async def test_what_was_left_out_is_read(http: httpx.AsyncClient, worker: Broker) -> None:
    assert (await http.get("/runs/r/filtered")).status_code == 404
    await http.put("/runs/r", json=STRICT)
    for similarity in (0.5, 0.7, 0.99):
        await enqueue_bdhs(worker, run="r")
        claim = await claim_one(worker)
        await worker.claims.finish(claim, bdhs_result(claim, similarity=similarity))
    page = (await http.get("/runs/r/filtered", params={"limit": 1})).json()
    assert [left_out["filters"] for left_out in page["pairs"]] == [["similarity"]]
    assert page["pairs"][0]["pair"]["similarity"] == 0.7
    page = (await http.get("/runs/r/filtered", params={"after": page["cursor"]})).json()
    assert [set(left_out["filters"]) for left_out in page["pairs"]] == [{"similar", "similarity"}]
    assert (await http.get("/runs/r/filtered", params={"after": "x"})).status_code == 422
    run = (await http.get("/runs/r")).json()
    assert run["outcomes"] == {"pair": 1, "filtered": 1, "similar": 1}
    assert run["filtered"] == {"similar": 1, "similarity": 2}
    metrics = (await http.get("/metrics")).text
    assert 'prefstream_outcomes_total{outcome="filtered",run="r"} 1.0' in metrics
    assert 'prefstream_filtered_total{filter="similarity",run="r"} 2.0' in metrics


@pytest.mark.parametrize("transport", ["http", "redis"])
async def test_with_the_client(transport: str, url: str, server: Server, worker: Broker) -> None:
    filters = PairFilters(similarity=Bounds(max=0.1))
    async with AsyncClient(url if transport == "http" else server.url) as client:
        run = await client.put_run("r", RunSettings(filters=filters))
        assert run.settings.filters == filters
        job = await enqueue_bdhs(worker, run="r")
        claim = await claim_one(worker)
        await worker.claims.finish(claim, bdhs_result(claim))
        page = await client.filtered_page("r")
        assert [(p.pair.pair_id, p.filters) for p in page.pairs] == [(job.id, ["similarity"])]
        ended = await client.job(job.id)
        assert ended.result
        assert (ended.result.outcome, ended.result.pairs) == ("filtered", [])
