"""Workers of one release beside jobs of another."""

import asyncio
import json
from typing import Any

import pytest
from pydantic import ValidationError

from service.broker import Broker, Claim
from service.broker.jobs import RESULT
from service.schemas import (
    TOLERANT,
    BdhsRequest,
    BdhsResult,
    Job,
    JobError,
    JobKind,
    JobStatus,
    LeaseRequest,
    Pair,
    WeightVersion,
    WorkerInfo,
)
from tests.service.samples import (
    bdhs_result,
    claim_one,
    enqueue,
    enqueue_bdhs,
    sample_request,
    sample_result,
    weight_version,
)

OLD = [JobKind.sample]
"""The kinds that a worker of yesterday knows."""

HOUR_MS = 3_600_000
BDHS = BdhsRequest(prompt="?", reference="Yes.", images=["sha256:" + "0" * 64])
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


async def test_what_has_its_default_is_not_said_to_workers(broker: Broker) -> None:
    """So a setting of tomorrow that is not used keeps no worker of today from the job."""
    job = await enqueue_bdhs(broker, rho=0.5)
    key = broker.connection.key("job", job.id)
    stored = json.loads(await broker.connection.redis.hget(key, "request"))
    assert set(stored) == {"prompt", "reference", "images", "rho"}
    assert (await claim_one(broker)).request.max_tokens == 512


async def test_a_service_of_today_hands_on_what_was_stored_tomorrow(broker: Broker) -> None:
    job = await enqueue(broker, run="r")
    key, redis = broker.connection.key, broker.connection.redis
    result = {"kind": "debate", "pairs": [{"pair_id": "p"}], "rounds": 3}
    error = {"code": "no", "message": "No.", "blame": "moon"}
    attempt = {"attempt": 1, "worker": "w", "at": "2027-01-01T00:00:00Z", "error": error, "x": 1}
    await redis.hset(
        key("job", job.id),
        mapping={
            "kind": "debate",
            "status": "paused",
            "priority": "urgent",
            "result": json.dumps(result),
            "error": json.dumps(error),
            "history": json.dumps(attempt),
        },
    )
    seen = await broker.jobs.get(job.id)
    assert seen
    assert (seen.kind, seen.status, seen.priority) == ("debate", "paused", "urgent")
    assert not seen.ended
    assert json.loads(seen.model_dump_json())["result"] == result
    assert seen.history[0].error.code == "no"
    assert [j.id for j in (await broker.jobs.page("open", before=None, limit=5)).jobs] == [job.id]


async def test_runs_and_pairs_of_tomorrow_are_read(broker: Broker) -> None:
    await enqueue_bdhs(broker, run="r")
    claim = await claim_one(broker)
    later = {"method": "debate", "vote": 0.7}
    made = bdhs_result(claim)
    made.pairs[0] = Pair.model_validate({**made.pairs[0].model_dump(), "method": "debate"})
    assert await broker.claims.finish(claim, made)
    key, redis = broker.connection.key, broker.connection.redis
    await redis.hset(key("run", "r"), mapping={"stale": "archive", "quota": 5})
    run = await broker.runs.get("r")
    assert run
    assert run.settings.stale == "archive"
    [pair] = (await broker.runs.pairs("r", None, 5)).pairs
    assert pair.method == later["method"]
    batch = await broker.batches.lease("r", LeaseRequest(size=1))
    assert batch
    assert batch.pairs == [pair]
    stored = json.dumps(pair.model_dump(mode="json") | later)
    assert Pair.model_validate_json(stored, **TOLERANT) == pair


def test_a_kind_of_weights_is_named_by_tomorrow_and_not_by_mistake() -> None:
    version = weight_version(1).model_dump() | {"kind": "delta"}
    assert WeightVersion.model_validate(version, **TOLERANT).kind == "delta"
    with pytest.raises(ValidationError, match="none of lora, full"):
        WeightVersion.model_validate(version)


def test_results_of_yesterday_are_read() -> None:
    """Stored with one pair, and with the trace of one image."""
    result = bdhs_result(Claim("j", JobKind.bdhs, BDHS, 1, "w", None)).model_dump(mode="json")
    view = {"start": 0, "rows": 6, "columns": 6, "newline": False}
    iteration = {
        "guided": True,
        "kept": [1],
        "noise_steps": 300,
        "noise_seed": 7,
        "sentences": [],
        "text": "Yes.",
        "similarity": 0.5,
    }
    trace = {"image_tokens": 36, "image_views": [view], "iterations": [iteration]}
    old = {"kind": "bdhs", "pair": result["pairs"][0], "trace": trace}
    seen = RESULT.validate_json(json.dumps(old), **TOLERANT)
    assert isinstance(seen, BdhsResult)
    assert seen.trace
    assert [pair.pair_id for pair in seen.pairs] == ["j"]
    assert [image.tokens for image in seen.trace.images] == [36]
    [image] = seen.trace.iterations[0].images
    assert (image.kept, image.noise_steps, image.noise_seed) == ([1], 300, 7)
    none = {"kind": "sample", "responses": [], "seed": 1, "pair": None}
    assert RESULT.validate_json(json.dumps(none), **TOLERANT).pairs == []


def test_a_worker_that_does_not_say_its_kinds_is_understood() -> None:
    info = {"id": "w", "model": "m", "weight_version": 0, "slots": 1, "running": 0}
    parsed = WorkerInfo.model_validate(
        {**info, "engine_ready": True, "heartbeat_at": "2026-01-01T00:00:00Z"}
    )
    assert parsed.kinds == []
