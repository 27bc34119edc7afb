"""Workers of one release beside jobs of another."""

import asyncio
from typing import Any

import pytest

from service.broker import Broker
from service.schemas import Job, JobError, JobKind, JobStatus, WorkerInfo
from tests.service.samples import (
    bdhs_result,
    claim_one,
    enqueue,
    enqueue_bdhs,
    sample_request,
    sample_result,
)

OLD = [JobKind.sample]
"""The kinds that a worker of yesterday knows."""

HOUR_MS = 3_600_000
OOPS = JobError(code="oops", message="It broke.")


async def make_unreadable(broker: Broker, job: Job) -> None:
    key = broker.connection.key("job", job.id)
    await broker.connection.redis.hset(key, "request", '{"later": 1}')


async def make_due(broker: Broker) -> None:
    """Lets the time of a retry pass."""
    redis, key = broker.connection.redis, broker.connection.key
    for job_id in await redis.zrange(key("retries"), 0, -1):
        await redis.zadd(key("retries"), {job_id: 1})


async def test_a_worker_claims_only_kinds_that_it_knows(broker: Broker) -> None:
    unknown = await enqueue_bdhs(broker, run="r")
    known = await enqueue(broker)
    claims = await broker.claims.claim("old", 10, block_s=0, kinds=OLD)
    assert [claim.job_id for claim in claims] == [known.id]
    waiting = await broker.jobs.get(unknown.id)
    assert waiting
    assert (waiting.status, waiting.attempt) == (JobStatus.queued, 0)
    assert (await broker.stats()).queued["normal"] == 1
    claim = await claim_one(broker, "new")
    assert (claim.job_id, claim.attempt) == (unknown.id, 1)
    assert await broker.claims.finish(claim, bdhs_result(claim))


async def test_a_waiting_worker_is_told_of_a_job_that_another_did_not_know(broker: Broker) -> None:
    job = await enqueue_bdhs(broker)
    assert await broker.claims.claim("old", 1, block_s=0, kinds=OLD) == []
    waiting = asyncio.create_task(broker.claims.claim("new", 1, block_s=60))
    [claim] = await asyncio.wait_for(waiting, 10)
    assert claim.job_id == job.id
    waiting = asyncio.create_task(broker.claims.claim("new", 1, block_s=60))
    await asyncio.sleep(0.1)
    again = await enqueue_bdhs(broker)
    await broker.claims.claim("old", 1, block_s=0, kinds=OLD)
    [claim] = await asyncio.wait_for(waiting, 10)
    assert claim.job_id == again.id


async def test_idle_workers_do_not_wake_each_other(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    run = broker.connection.run

    async def counted(script: Any, *args: Any) -> Any:
        calls.append(script.path)
        return await run(script, *args)

    monkeypatch.setattr(broker.connection, "run", counted)
    await enqueue_bdhs(broker)
    workers = [broker.claims.claim(f"old{i}", 1, block_s=0.4, kinds=OLD) for i in range(3)]
    assert await asyncio.gather(*workers) == [[], [], []]
    assert calls.count("claims/claim.lua") < 15


async def test_an_old_worker_finds_its_jobs_behind_many_others(broker: Broker) -> None:
    for _ in range(1100):  # more than one call moves
        await enqueue(broker)
    job = await enqueue_bdhs(broker)
    [claim] = await broker.claims.claim("old", 1, block_s=10, kinds=[JobKind.bdhs])
    assert claim.job_id == job.id


async def test_a_lost_lease_is_found_in_a_lane_of_a_kind(broker: Broker) -> None:
    job = await enqueue_bdhs(broker)
    await broker.claims.claim("old", 1, block_s=0, kinds=OLD)
    await claim_one(broker)
    redis, key = broker.connection.redis, broker.connection.key
    lane, entry = await redis.hmget(key("job", job.id), "lane", "entry")
    assert lane == "normal:kind:bdhs"
    await redis.xclaim(key("lane", lane), "workers", "any", 0, [entry], idle=10**9, justid=True)
    await redis.delete(key("swept"), key("cursors"))
    await Broker(broker.connection).sweeper.sweep()
    assert (await claim_one(broker)).attempt == 2


async def test_kinds_must_be_known_here(broker: Broker) -> None:
    for kinds in ([], ["dream"]):
        with pytest.raises(ValueError, match="kinds must be some of"):
            await broker.claims.claim("w", 1, block_s=0, kinds=kinds)


async def test_a_request_that_a_worker_cannot_read_harms_only_itself(broker: Broker) -> None:
    bad, good = await enqueue(broker), await enqueue(broker)
    await make_unreadable(broker, bad)
    claims = await broker.claims.claim("w1", 2, block_s=0)
    assert [claim.job_id for claim in claims] == [good.id]
    for _ in range(5):  # more often than a job may be tried
        assert await broker.claims.claim("w1", 2, block_s=0.05) == [], "not before a second"
        waiting = await broker.jobs.get(bad.id)
        assert waiting
        assert waiting.error
        assert (waiting.status, waiting.error.code) == (JobStatus.retrying, "unreadable_request")
        await make_due(broker)
    key = broker.connection.key("job", bad.id)
    since = int(await broker.connection.redis.hget(key, "unreadable_since"))
    await broker.connection.redis.hset(key, "unreadable_since", since - HOUR_MS)
    assert await broker.claims.claim("w1", 2, block_s=0.05) == []
    dead = await broker.jobs.get(bad.id)
    assert dead
    assert dead.error
    assert (dead.status, dead.error.code) == (JobStatus.dead, "unreadable_request")
    assert len(dead.history) == 1
    assert "later: Extra inputs" in dead.error.message


async def test_a_worker_that_can_read_it_does_the_job(broker: Broker) -> None:
    job = await enqueue(broker)
    await make_unreadable(broker, job)
    assert await broker.claims.claim("old", 1, block_s=0) == []
    await broker.connection.redis.hset(
        broker.connection.key("job", job.id), "request", sample_request().model_dump_json()
    )
    await make_due(broker)
    claim = await claim_one(broker, "new")
    assert await broker.claims.finish(claim, sample_result())
    done = await broker.jobs.get(job.id)
    assert done
    assert (done.status, done.error) == (JobStatus.succeeded, None)


async def test_a_job_of_very_many_attempts_is_retried(broker: Broker) -> None:
    job = await enqueue(broker)
    key = broker.connection.key("job", job.id)
    await broker.connection.redis.hset(key, mapping={"attempt": 2000, "released": 2000})
    claim = await claim_one(broker)
    assert await broker.claims.retry(claim, OOPS)
    again = await broker.jobs.get(job.id)
    assert again
    assert again.status == JobStatus.retrying


def test_a_worker_that_does_not_say_its_kinds_is_understood() -> None:
    info = {"id": "w", "model": "m", "weight_version": 0, "slots": 1, "running": 0}
    parsed = WorkerInfo.model_validate(
        {**info, "engine_ready": True, "heartbeat_at": "2026-01-01T00:00:00Z"}
    )
    assert parsed.kinds == []
