"""Workers that die, freeze, or are late."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from service.broker import Broker
from service.schemas import JobStatus
from service.settings import Settings
from tests.service.leaks import find_leaks
from tests.service.samples import bdhs_result, claim_one, enqueue, enqueue_bdhs, sample_result

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def hasty(settings: Settings) -> AsyncIterator[Broker]:
    """A broker with leases so short that they run out while one looks."""
    async with Broker.connect(settings.model_copy(update={"lease_s": 0.02})) as broker:
        yield broker
        assert await find_leaks(broker) == []


async def test_a_dead_workers_job_goes_to_another_and_its_pair_appears_once(hasty: Broker) -> None:
    job = await enqueue_bdhs(hasty, run="r")
    dead = await claim_one(hasty, "dead")
    alive = await claim_one(hasty, "alive")
    assert (alive.job_id, alive.attempt) == (job.id, 2)
    assert [error.code for error in alive.history] == ["worker_lost"]
    assert "Worker dead stopped renewing" in alive.history[0].message

    assert not await hasty.claims.finish(dead, bdhs_result(dead))
    assert await hasty.claims.finish(alive, bdhs_result(alive))
    assert not await hasty.claims.finish(dead, bdhs_result(dead))
    page = await hasty.runs.pairs("r", None, 10)
    assert [pair.pair_id for pair in page.pairs] == [job.id]


async def test_a_late_worker_changes_nothing(hasty: Broker) -> None:
    await enqueue(hasty)
    late = await claim_one(hasty, "late")
    now = await claim_one(hasty, "now")
    error = now.history[0]
    assert await hasty.claims.renew([late]) == {late.job_id}
    assert not await hasty.claims.release(late)
    assert not await hasty.claims.fail(late, error)
    assert not await hasty.claims.retry(late, error)
    await hasty.claims.progress(late, {"late": True})
    assert await hasty.jobs.events(late.job_id) == []
    assert await hasty.claims.finish(now, sample_result())


async def test_a_late_finish_counts_while_nobody_took_over(hasty: Broker) -> None:
    await enqueue(hasty)
    claim = await claim_one(hasty)
    await asyncio.sleep(0.03)  # the lease
    assert await hasty.claims.finish(claim, sample_result())


async def test_renewal_keeps_the_job(broker: Broker) -> None:
    redis, key = broker.connection.redis, broker.connection.key
    job = await enqueue(broker)
    claim = await claim_one(broker, "owner")

    async def age() -> None:
        """As if it had not been renewed for long."""
        [entry] = await redis.hmget(key("job", job.id), "entry")
        lane = key("lane", "normal")
        await redis.xclaim(lane, "workers", "any", 0, [entry], idle=10**9, justid=True)

    async def taken_over() -> bool:
        await redis.delete(key("swept"), key("cursors"))
        return bool(await Broker(broker.connection).claims.claim("other", 1, block_s=0))

    await age()
    assert await broker.claims.renew([claim]) == set()
    assert not await taken_over()
    assert await broker.claims.renew([claim]) == set()
    await age()
    assert await taken_over()
    assert await broker.claims.renew([claim]) == {job.id}


async def test_a_job_that_loses_every_worker_is_dead(hasty: Broker) -> None:
    job = await enqueue_bdhs(hasty, run="r")
    for _ in range(3):
        await claim_one(hasty)
    dead = await hasty.jobs.wait(job.id, 0)
    while dead and dead.status == JobStatus.running:
        await hasty.sweeper.sweep()
        dead = await hasty.jobs.wait(job.id, 0)
    assert dead
    assert dead.status == JobStatus.dead
    assert dead.error
    assert dead.error.code == "worker_lost"


async def test_many_expired_leases_are_all_found(hasty: Broker) -> None:
    """More than one step of the sweep's cursor."""
    for _ in range(250):
        await enqueue(hasty)
    assert len(await hasty.claims.claim("dead", 250, block_s=0)) == 250
    again = 0
    while again < 250:
        claims = await hasty.claims.claim("alive", 250, block_s=1)
        again += len([await hasty.claims.finish(claim, sample_result()) for claim in claims])


async def test_a_lost_group_loses_no_job(broker: Broker) -> None:
    running, queued = await enqueue(broker), await enqueue(broker)
    claim = await claim_one(broker)
    for lane in ("normal", "normal:again"):
        await broker.connection.redis.xgroup_destroy(broker.connection.key("lane", lane), "workers")
    assert await broker.claims.renew([claim]) == set()
    other = await claim_one(broker)
    assert (claim.job_id, other.job_id) == (running.id, queued.id)
    assert await broker.claims.claim("w1", 10, block_s=0) == []
    assert await broker.claims.finish(claim, sample_result())
    assert await broker.claims.finish(other, sample_result())


async def test_a_lost_database_is_begun_anew(broker: Broker) -> None:
    await enqueue_bdhs(broker, run="r")
    claim = await claim_one(broker)
    await broker.connection.redis.flushall()
    assert await broker.claims.renew([claim]) == {claim.job_id}
    assert not await broker.claims.finish(claim, bdhs_result(claim))
    job = await enqueue(broker)
    assert (await claim_one(broker)).job_id == job.id
