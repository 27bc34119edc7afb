"""Many jobs at once: in flight no more than asked for, each handed out as it ends."""

import asyncio
from collections.abc import Iterator

import pytest

from service.broker import Broker
from service.client import AsyncClient, Client, InvalidRequest
from service.schemas import JobError, RunSettings, SampleRequest
from tests.service.samples import claim_one, sample_result
from tests.waiting import until


def requests(count: int, asked: list[int] | None = None) -> Iterator[SampleRequest]:
    for number in range(count):
        if asked is not None:
            asked.append(number)
        yield SampleRequest(prompt=str(number))


async def work(broker: Broker, count: int) -> None:
    for number in range(count):
        claim = await claim_one(broker)
        if number == 1:
            await broker.claims.fail(claim, JobError(code="no", message="No."))
        else:
            await broker.claims.finish(claim, sample_result())


async def test_every_job_is_yielded_with_its_index(url: str, worker: Broker) -> None:
    working = asyncio.create_task(work(worker, 7))
    async with AsyncClient(url) as client:
        ended = [pair async for pair in client.map(requests(7), in_flight=3)]
    await working
    assert sorted(index for index, _ in ended) == list(range(7))
    assert [job.status for _, job in ended].count("failed") == 1
    assert all(job.ended for _, job in ended)


async def test_no_more_are_in_flight_than_asked_for(url: str, worker: Broker) -> None:
    asked: list[int] = []
    async with AsyncClient(url) as client:
        ended = client.map(requests(9, asked), in_flight=2)
        first = asyncio.ensure_future(anext(ended))

        async def two_open() -> bool:
            return len((await client.jobs()).jobs) == 2

        await until(two_open)
        assert asked == [0, 1]
        await worker.claims.finish(await claim_one(worker), sample_result())
        _, job = await first
        assert job.status == "succeeded"
        await ended.aclose()
        assert (await client.jobs()).jobs == [], "who leaves cancels what is open"
    assert len(asked) <= 3


async def test_an_error_in_the_loop_cancels_what_is_open(url: str, worker: Broker) -> None:
    async def use() -> None:
        async with AsyncClient(url) as client:
            async for _ in client.map(requests(5), in_flight=3):
                raise LookupError

    working = asyncio.create_task(work(worker, 1))
    with pytest.raises(LookupError):
        await use()
    await working
    async with AsyncClient(url) as client:
        assert (await client.jobs()).jobs == []


async def test_a_client_that_is_closed_cancels_what_is_open(url: str, worker: Broker) -> None:
    async with AsyncClient(url) as client:
        ended = client.map(requests(5), in_flight=3)
        working = asyncio.create_task(work(worker, 1))
        await anext(ended)
        await working
    async with AsyncClient(url) as client:
        assert (await client.jobs()).jobs == []


async def test_a_full_window_is_waited_for(url: str, worker: Broker) -> None:
    async with AsyncClient(url, retry_for_s=0) as client:
        await client.put_run("r", RunSettings(window=1))
        wanted = [request.model_copy(update={"run": "r"}) for request in requests(3)]
        working = asyncio.create_task(work(worker, 3))
        assert len([job async for job in client.map(wanted)]) == 3
        await working


async def test_a_refusal_ends_it_and_cancels_the_rest(url: str) -> None:
    bad = SampleRequest(prompt="?", images=["http://a/b.png"])
    async with AsyncClient(url) as client:
        with pytest.raises(InvalidRequest, match="image_url_refused"):
            _ = [job async for job in client.map([*requests(2), bad])]
        assert (await client.jobs()).jobs == []


async def test_without_awaiting(url: str, worker: Broker) -> None:
    def use() -> list[int]:
        with Client(url) as client:
            return sorted(index for index, _ in client.map(requests(4), in_flight=2))

    working = asyncio.create_task(work(worker, 4))
    assert await asyncio.to_thread(use) == [0, 1, 2, 3]
    await working
