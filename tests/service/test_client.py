"""The client, over HTTP and over Redis, awaited and not: the same calls, the same answers."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from service.broker import Broker
from service.client import AsyncClient, Client, ProblemError, image_data
from service.schemas import BdhsRequest, JobError, RunSettings, SampleRequest
from tests.servers import Server
from tests.service.samples import bdhs_result, claim_one, png, sample_result

pytestmark = pytest.mark.asyncio

BDHS = BdhsRequest(prompt="?", reference="Red.", images=[image_data(png())], run="r")


@pytest_asyncio.fixture(params=["http", "redis"])
async def client(
    request: pytest.FixtureRequest, url: str, server: Server
) -> AsyncIterator[AsyncClient]:
    address = url if request.param == "http" else server.url
    async with AsyncClient(address, patience_s=0) as client:
        yield client


async def test_a_pair_from_end_to_end(client: AsyncClient, worker: Broker) -> None:
    run = await client.put_run("r", RunSettings(window=5))
    assert await client.run("r") == run
    waiting = asyncio.create_task(client.bdhs(BDHS, wait_s=20))
    claim = await claim_one(worker)
    await worker.jobs.finish(claim, bdhs_result(claim))
    job = await waiting
    assert job.result == bdhs_result(claim).model_copy(update={"pair": job.result.pair})  # pyright: ignore
    pairs = [pair async for pair in client.pairs("r")]
    assert [pair.pair_id for pair in pairs] == [job.id]
    assert await client.image(pairs[0].images[0]) == png()


async def test_wait_polls_until_the_end(client: AsyncClient, worker: Broker) -> None:
    job = await client.sample(SampleRequest(prompt="?"))
    with pytest.raises(TimeoutError, match=r"still queued after 0\.01 s"):
        await client.wait(job.id, timeout_s=0.01)
    waiting = asyncio.create_task(client.wait(job.id))
    await worker.jobs.finish(await claim_one(worker), sample_result())
    assert (await waiting).status == "succeeded"


async def test_problems_are_raised(client: AsyncClient, worker: Broker) -> None:
    with pytest.raises(ProblemError, match="404 job_not_found"):
        await client.job("0" * 32)
    with pytest.raises(ProblemError, match="404 run_not_found"):
        await client.run("nowhere")
    await client.put_run("r", RunSettings())
    with pytest.raises(ProblemError, match="422 bad_cursor"):
        await client.pairs_page("r", after="x")
    with pytest.raises(ProblemError, match="image_url_refused"):
        await client.bdhs(BDHS.model_copy(update={"images": ["http://x/y.png"]}))
    with pytest.raises(ProblemError, match="invalid_image"):
        await client.store_image(b"?")
    waiting = asyncio.create_task(client.sample(SampleRequest(prompt="?"), wait_s=20))
    await worker.jobs.fail(await claim_one(worker), JobError(code="no", message="Never."))
    with pytest.raises(ProblemError, match="422 no: Never") as raised:
        await waiting
    assert raised.value.problem.job_id


async def test_a_full_window_is_waited_for(url: str, worker: Broker) -> None:
    async with AsyncClient(url, patience_s=30) as client:
        await client.put_run("r", RunSettings(window=1))
        await client.bdhs(BDHS)
        second = asyncio.create_task(client.bdhs(BDHS))
        await worker.jobs.fail(await claim_one(worker), JobError(code="no", message="No."))
        await second


@pytest.mark.parametrize("how", ["http", "redis"])
async def test_the_client_that_does_not_await(
    url: str, server: Server, worker: Broker, how: str
) -> None:
    def use() -> str:
        with Client(url if how == "http" else server.url) as client:
            image = client.store_image(png()).image
            job = client.bdhs(BDHS.model_copy(update={"images": [image]}))
            done = client.wait(job.id, timeout_s=20)
            [pair] = client.pairs("r")
            assert client.image(pair.images[0]) == png()
            assert client.job(job.id) == done
            assert not client.health().workers
            return pair.pair_id

    using = asyncio.create_task(asyncio.to_thread(use))
    claim = await claim_one(worker)
    await worker.jobs.finish(claim, bdhs_result(claim))
    assert await using == claim.job_id


async def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="starts with none of"):
        AsyncClient("ftp://x")
