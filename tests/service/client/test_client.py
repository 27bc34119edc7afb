"""The client, over HTTP and over Redis, awaited and not: the same calls, the same answers."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from service.broker import Broker
from service.client import (
    AsyncClient,
    Client,
    Conflict,
    InvalidRequest,
    PrefstreamError,
    VersionNotFound,
    image_data,
)
from service.schemas import (
    BdhsRequest,
    ImagePart,
    JobError,
    Message,
    RunSettings,
    SampleRequest,
    TextPart,
)
from tests.servers import Server
from tests.service.samples import (
    append,
    bdhs_result,
    claim_one,
    enqueue,
    png,
    sample_result,
    weight_version,
)
from tests.waiting import until

pytestmark = pytest.mark.asyncio

BDHS = BdhsRequest(prompt="?", reference="Red.", images=[image_data(png())], run="r")


@pytest_asyncio.fixture(params=["http", "redis"])
async def client(
    request: pytest.FixtureRequest, url: str, server: Server
) -> AsyncIterator[AsyncClient]:
    address = url if request.param == "http" else server.url
    async with AsyncClient(address, retry_for_s=0) as client:
        yield client


async def test_a_pair_from_end_to_end(client: AsyncClient, worker: Broker) -> None:
    run = await client.put_run("r", RunSettings(window=5))
    talk = Message(role="user", content=[ImagePart(), TextPart(text="?")])
    messages = BdhsRequest(messages=[talk], reference="Red.", images=BDHS.images)
    assert (await client.cancel((await client.bdhs(messages)).id)).status == "cancelled"
    assert await client.run("r") == run
    waiting = asyncio.create_task(client.bdhs(BDHS, wait_s=20))
    claim = await claim_one(worker)
    await worker.claims.finish(claim, bdhs_result(claim))
    job = await waiting
    assert job.result == bdhs_result(claim).model_copy(update={"pairs": job.result.pairs})  # pyright: ignore
    pairs = [pair async for pair in client.pairs("r")]
    assert [pair.pair_id for pair in pairs] == [job.id]
    assert await client.image(pairs[0].images[0]) == png()


async def test_wait_polls_until_the_end(client: AsyncClient, worker: Broker) -> None:
    job = await client.sample(SampleRequest(prompt="?"))
    with pytest.raises(TimeoutError, match=r"still queued after 0\.01 s"):
        await client.wait(job.id, timeout_s=0.01)
    waiting = asyncio.create_task(client.wait(job.id))
    await worker.claims.finish(await claim_one(worker), sample_result())
    assert (await waiting).status == "succeeded"


async def test_a_version_is_taken_back(client: AsyncClient) -> None:
    await client.announce(weight_version(1))
    with pytest.raises(InvalidRequest, match="422 version_too_far"):
        await client.announce(weight_version(2**53))
    assert (await client.withdraw(1)).newest is None
    assert (await client.withdraw(1)).withdrawn == [1]
    with pytest.raises(VersionNotFound, match="no version 2"):
        await client.withdraw(2)
    with pytest.raises(Conflict, match="409 version_withdrawn"):
        await client.announce(weight_version(1))


async def test_problems_are_raised(client: AsyncClient, worker: Broker) -> None:
    with pytest.raises(PrefstreamError, match="404 job_not_found"):
        await client.job("0" * 32)
    with pytest.raises(PrefstreamError, match="404 run_not_found"):
        await client.run("nowhere")
    await client.put_run("r", RunSettings())
    with pytest.raises(PrefstreamError, match="422 bad_cursor"):
        await client.pairs_page("r", after="x")
    with pytest.raises(PrefstreamError, match="image_url_refused"):
        await client.bdhs(BDHS.model_copy(update={"images": ["http://x/y.png"]}))
    with pytest.raises(PrefstreamError, match="invalid_image"):
        await client.store_image(b"?")
    waiting = asyncio.create_task(client.sample(SampleRequest(prompt="?"), wait_s=20))
    await worker.claims.fail(await claim_one(worker), JobError(code="no", message="Never."))
    with pytest.raises(PrefstreamError, match="422 no: Never") as raised:
        await waiting
    assert raised.value.problem.job_id


async def test_a_full_window_is_waited_for(url: str, worker: Broker) -> None:
    async with AsyncClient(url, retry_for_s=30) as client:
        await client.put_run("r", RunSettings(window=1))
        await client.bdhs(BDHS)
        second = asyncio.create_task(client.bdhs(BDHS))
        await worker.claims.fail(await claim_one(worker), JobError(code="no", message="No."))
        await second


async def test_batches_are_leased_kept_and_acknowledged(
    client: AsyncClient, worker: Broker
) -> None:
    pairs = await append(worker, 3)
    seen: list[str] = []
    async for batch in client.batches("r", size=2, min_size=1, lease_s=0.06, idle_s=0.2):
        assert [delivery.count for delivery in batch.deliveries] == [1] * len(batch.pairs)
        if not seen:
            await asyncio.sleep(0.2)  # longer than the lease, which is kept meanwhile
        assert not batch.lost
        seen += [pair.pair_id for pair in batch.pairs]
        await batch.ack()
    assert seen == pairs
    [group] = (await client.run("r")).groups
    assert (group.acknowledged, group.redelivered) == (3, 0)


async def test_batches_of_a_dead_subscriber_are_delivered_again(
    client: AsyncClient, url: str, worker: Broker
) -> None:
    pairs = await append(worker, 2)
    async with AsyncClient(url) as dying:
        batch = await anext(dying.batches("r", size=2, lease_s=0.05))
        assert [pair.pair_id for pair in batch.pairs] == pairs
    again = await anext(client.batches("r", size=2))
    assert [pair.pair_id for pair in again.pairs] == pairs
    assert [delivery.count for delivery in again.deliveries] == [2, 2]
    with pytest.raises(PrefstreamError, match="410 lease_lost"):
        await client.ack("r", batch.batch.lease)
    await again.nack()
    await (await anext(client.batches("r", size=2))).ack()


async def test_who_saved_before_it_died_acknowledges_when_it_comes_back(
    client: AsyncClient, url: str, worker: Broker
) -> None:
    await append(worker, 2)
    async with AsyncClient(url) as dying:
        batch = await dying.lease("r", size=2)
        assert batch is not None
    await client.ack("r", batch.batch.lease)
    [group] = (await client.run("r")).groups
    assert (group.acknowledged, group.leased) == (2, 0)
    assert await client.lease("r", size=1) is None
    assert await client.lease("r", size=1, wait_s=0.01) is None


async def test_a_lost_lease_is_noticed(client: AsyncClient, worker: Broker) -> None:
    await append(worker, 1)
    batch = await anext(client.batches("r", size=1, lease_s=0.03))
    await worker.batches.nack("r", batch.batch.lease)

    async def lost() -> bool:
        return batch.lost

    await until(lost)


async def test_batches_of_no_run(client: AsyncClient) -> None:
    with pytest.raises(PrefstreamError, match="404 run_not_found"):
        await anext(client.batches("nowhere"))


async def test_jobs_and_runs_are_administered(client: AsyncClient, worker: Broker) -> None:
    first, second = await client.bdhs(BDHS), await client.bdhs(BDHS)
    assert {job.id for job in (await client.jobs()).jobs} == {first.id, second.id}
    assert [run.name for run in await client.runs()] == ["r"]
    for claim in await worker.claims.claim("w", 2, block_s=5):
        await worker.claims.retry(claim, JobError(code="no", message="No."), give_up=True)
    assert len((await client.jobs("dead", limit=1)).jobs) == 1
    assert (await client.retry_dead_letter(first.id)).status == "queued"
    assert await client.purge_dead_letters() == 1
    assert (await client.cancel(first.id)).status == "cancelled"
    with pytest.raises(PrefstreamError, match="409 not_dead"):
        await client.retry_dead_letter(first.id)
    with pytest.raises(PrefstreamError, match="404 job_not_found"):
        await client.retry_dead_letter(second.id)


async def test_a_run_is_deleted(client: AsyncClient, worker: Broker) -> None:
    job = await client.bdhs(BDHS)
    with pytest.raises(PrefstreamError, match="409 run_busy"):
        await client.delete_run("r")
    await client.delete_run("r", force=True)
    assert (await client.job(job.id)).status == "cancelled"
    assert await client.runs() == []
    with pytest.raises(PrefstreamError, match="404 run_not_found"):
        await client.delete_run("r")


async def test_versions_are_announced(client: AsyncClient) -> None:
    assert (await client.weights()).newest is None
    assert (await client.announce(weight_version(2))).newest == weight_version(2)
    with pytest.raises(PrefstreamError, match="409 version_not_newer"):
        await client.announce(weight_version(1))
    assert (await client.weights(settled=2, wait_s=5)).newest == weight_version(2)


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
            for batch in client.batches("r", size=1, idle_s=0):
                batch.nack()
                break
            batch = client.lease("r", size=1)
            assert batch is not None
            assert batch.pairs == [pair]
            client.ack("r", batch.batch.lease)
            assert list(client.batches("r", size=1, idle_s=0)) == []
            assert client.run("r").groups[0].acknowledged == 1
            assert (len(client.runs()), client.jobs().jobs, client.purge_dead_letters()) == (
                1,
                [],
                0,
            )
            client.delete_run("r")
            assert client.runs() == []
            return pair.pair_id

    using = asyncio.create_task(asyncio.to_thread(use))
    claim = await claim_one(worker)
    await worker.claims.finish(claim, bdhs_result(claim))
    assert await using == claim.job_id


@pytest.mark.parametrize("transport", ["http", "redis"])
async def test_closing_ends_calls_of_other_threads(
    transport: str, url: str, server: Server, worker: Broker
) -> None:
    await append(worker, 1)
    job = await enqueue(worker)
    client = Client(url if transport == "http" else server.url)
    calls = [
        asyncio.create_task(asyncio.to_thread(call))
        for call in (
            lambda: client.wait(job.id),
            lambda: client.lease("r", size=9, wait_s=1e9),
            lambda: list(client.batches("r", group="other", size=9)),
        )
    ]

    async def all_wait() -> bool:
        run = await worker.runs.get("r")
        return run is not None and len(run.groups) == 2

    await until(all_wait)
    await asyncio.to_thread(client.close)
    for call in calls:  # long before they would have ended
        with pytest.raises(RuntimeError, match="was closed"):
            await call
    run = await worker.runs.get("r")
    assert run
    assert sum(group.leased for group in run.groups) == 0


async def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="starts with none of"):
        AsyncClient("ftp://x")
