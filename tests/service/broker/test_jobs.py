"""A job's life, from enqueue to its end."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from service.broker import (
    Broker,
    IdempotencyConflict,
    ImageGone,
    QueueFull,
    WindowFull,
)
from service.schemas import JobError, JobStatus, Priority, RunSettings
from service.settings import Settings
from tests.service.samples import (
    bdhs_result,
    claim_one,
    enqueue,
    enqueue_bdhs,
    sample_request,
    sample_result,
    twice,
)
from tests.waiting import until

pytestmark = pytest.mark.asyncio

OOPS = JobError(code="oops", message="It broke.", details={"list": [], "map": {}})


async def test_a_job_is_enqueued_claimed_and_finished(broker: Broker) -> None:
    job = await enqueue(broker, metadata={"a": [1, {}]})
    assert (job.status, job.attempt) == (JobStatus.queued, 0)
    assert await broker.jobs.get(job.id) == job

    claim = await claim_one(broker)
    assert (claim.job_id, claim.attempt, claim.history) == (job.id, 1, ())
    assert claim.request == sample_request(metadata={"a": [1, {}]})
    running = await broker.jobs.get(job.id)
    assert running
    assert running.status == JobStatus.running
    assert running.started_at
    assert running.worker == claim.worker_id

    assert await broker.claims.finish(claim, sample_result())
    assert await broker.claims.renew([claim]) == set()  # it is done, not lost
    done = await broker.jobs.get(job.id)
    assert done
    assert done.status == JobStatus.succeeded
    assert done.result == sample_result()
    assert done.metadata == {"a": [1, {}]}
    assert await broker.claims.claim("w1", 5, block_s=0) == []


async def test_finish_said_twice_counts_once(broker: Broker) -> None:
    await enqueue_bdhs(broker, run="r")
    claim = await claim_one(broker)
    assert await broker.claims.finish(claim, bdhs_result(claim))
    assert await broker.claims.finish(claim, bdhs_result(claim))
    assert len((await broker.runs.pairs("r", None, 10)).pairs) == 1


async def test_an_unknown_job_is_none(broker: Broker) -> None:
    assert await broker.jobs.get("0" * 32) is None
    assert await broker.jobs.wait("0" * 32, 60) is None
    assert await broker.jobs.cancel("0" * 32) is None


async def test_claim_takes_no_more_than_asked(broker: Broker) -> None:
    for priority in Priority:
        for _ in range(3):
            await enqueue(broker, priority=priority)
    first = await broker.claims.claim("w1", 1, block_s=0)
    second = await broker.claims.claim("w1", 4, block_s=0)
    rest = await broker.claims.claim("w1", 100, block_s=0)
    assert [len(first), len(second), len(rest)] == [1, 4, 4]
    got = [claim.request.priority for claim in first + second + rest]
    assert got == [Priority.high] * 3 + [Priority.normal] * 3 + [Priority.low] * 3


async def test_a_waiting_worker_wakes_when_a_job_comes(broker: Broker) -> None:
    waiting = asyncio.create_task(broker.claims.claim("w1", 1, block_s=60))
    await _until_blocked(broker)
    job = await enqueue(broker, priority="low")
    [claim] = await asyncio.wait_for(waiting, 10)
    assert claim.job_id == job.id


async def test_a_cancelled_claim_loses_nothing(broker: Broker) -> None:
    waiting = asyncio.create_task(broker.claims.claim("w1", 1, block_s=60))
    await _until_blocked(broker)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    job = await enqueue(broker)
    racing = asyncio.create_task(broker.claims.claim("w1", 1, block_s=60))
    for _ in range(3):  # into the middle of the call
        await asyncio.sleep(0)
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    assert (await claim_one(broker)).job_id == job.id


async def test_wait_returns_when_the_job_ends(broker: Broker) -> None:
    job = await enqueue(broker)
    waiting = asyncio.create_task(broker.jobs.wait(job.id, 60))
    claim = await claim_one(broker)
    assert not waiting.done()
    await broker.claims.finish(claim, sample_result())
    done = await asyncio.wait_for(waiting, 10)
    assert done
    assert done.status == JobStatus.succeeded


async def test_wait_gives_up_after_its_time(broker: Broker) -> None:
    job = await enqueue(broker)
    waited = await broker.jobs.wait(job.id, 0.05)
    assert waited
    assert waited.status == JobStatus.queued


async def test_release_hands_back_at_the_front_and_counts_nothing(broker: Broker) -> None:
    job = await enqueue(broker)
    for _ in range(3):
        await enqueue(broker)
    for _ in range(5):  # more often than a job may be tried
        claim = await claim_one(broker)
        assert claim.job_id == job.id
        assert await broker.claims.release(claim)
        assert not await broker.claims.finish(claim, sample_result())
    for attempt in (6, 7, 8):  # as many as without
        claim = await claim_one(broker)
        assert (claim.job_id, claim.attempt) == (job.id, attempt)
        await broker.claims.retry(claim, OOPS)
    dead = await broker.jobs.get(job.id)
    assert dead
    assert dead.status == JobStatus.dead


async def test_fail_ends_a_job_with_its_reason(broker: Broker) -> None:
    job = await enqueue(broker)
    claim = await claim_one(broker)
    assert await broker.claims.fail(claim, OOPS)
    assert not await broker.claims.fail(claim, OOPS)
    ended = await broker.jobs.get(job.id)
    assert ended
    assert (ended.status, ended.error) == (JobStatus.failed, OOPS)


async def test_retries_end_in_the_dead_letters(broker: Broker) -> None:
    job = await enqueue(broker, run="r")
    for attempt in (1, 2, 3):
        claim = await claim_one(broker)
        assert claim.attempt == attempt
        assert claim.history == (OOPS,) * (attempt - 1)
        assert await broker.claims.retry(claim, OOPS)
    dead = await broker.jobs.get(job.id)
    assert dead
    assert (dead.status, dead.error) == (JobStatus.dead, OOPS)
    run = await broker.runs.get("r")
    assert run
    assert run.open_jobs == 0


async def test_giving_up_skips_the_attempts_that_are_left(broker: Broker) -> None:
    job = await enqueue(broker)
    assert await broker.claims.retry(await claim_one(broker), OOPS, give_up=True)
    dead = await broker.jobs.get(job.id)
    assert dead
    assert dead.status == JobStatus.dead


async def test_cancel_ends_a_job_in_any_state(broker: Broker) -> None:
    queued = await enqueue(broker, run="r")
    cancelled = await broker.jobs.cancel(queued.id)
    assert cancelled
    assert cancelled.status == JobStatus.cancelled

    running = await enqueue(broker, run="r")
    claim = await claim_one(broker)
    async with broker.claims.revoked() as lost:
        lost.clear()
        assert await broker.claims.renew([claim]) == set()
        await broker.jobs.cancel(running.id)
        await asyncio.wait_for(lost.wait(), 10)
    assert await broker.claims.renew([claim]) == {running.id}
    assert not await broker.claims.finish(claim, sample_result())

    retrying = await enqueue(broker, run="r")
    await broker.claims.retry(await claim_one(broker), OOPS)
    await broker.jobs.cancel(retrying.id)
    assert await broker.claims.claim("w1", 1, block_s=0) == []

    done = await enqueue(broker)
    await broker.claims.finish(await claim_one(broker), sample_result())
    kept = await broker.jobs.cancel(done.id)
    assert kept
    assert kept.status == JobStatus.succeeded


async def test_a_missed_deadline_fails_the_job(broker: Broker) -> None:
    job = await enqueue(broker, deadline_s=0.001, run="r")
    await asyncio.sleep(0.002)  # the deadline itself
    assert await broker.claims.claim("w1", 1, block_s=0) == []
    ended = await broker.jobs.get(job.id)
    assert ended
    assert ended.error
    assert (ended.status, ended.error.code) == (JobStatus.failed, "deadline_exceeded")


async def test_one_sweep_ends_all_missed_deadlines(broker: Broker) -> None:
    jobs = [await enqueue(broker, deadline_s=0.001) for _ in range(600)]
    await asyncio.sleep(0.002)  # the deadline itself
    await broker.sweeper.sweep()
    ended = [await broker.jobs.get(job.id) for job in jobs]
    assert {job.status for job in ended if job} == {JobStatus.failed}


async def test_the_sweep_ends_missed_deadlines_without_workers(broker: Broker) -> None:
    job = await enqueue(broker, deadline_s=0.001)
    await asyncio.sleep(0.002)  # the deadline itself
    await broker.sweeper.sweep()
    ended = await broker.jobs.get(job.id)
    assert ended
    assert ended.status == JobStatus.failed


async def test_progress_is_read_from_where_one_left(broker: Broker) -> None:
    job = await enqueue(broker)
    claim = await claim_one(broker)
    for step in range(3):
        await broker.claims.progress(claim, {"step": step})
    events = await broker.jobs.events(job.id)
    assert [event.data for event in events] == [{"step": 0}, {"step": 1}, {"step": 2}]
    rest = await broker.jobs.events(job.id, events[1].id)
    assert [event.data for event in rest] == [{"step": 2}]


async def test_progress_is_followed_live(broker: Broker) -> None:
    job = await enqueue(broker)
    seen = [what async for what in _followed_run(broker, job.id)]
    assert seen == ["queued", "running", {"step": 1}, "succeeded"]


async def _followed_run(broker: Broker, job_id: str) -> AsyncIterator[object]:
    claim = None
    async for item in broker.jobs.follow(job_id):
        yield str(item.status) if not hasattr(item, "data") else item.data  # pyright: ignore
        match getattr(item, "status", None):
            case JobStatus.queued:
                claim = await claim_one(broker)
            case JobStatus.running:
                await broker.claims.progress(claim, {"step": 1})  # pyright: ignore
            case None:
                await broker.claims.finish(claim, sample_result())  # pyright: ignore
            case _:
                pass


async def test_the_same_idempotency_key_is_the_same_job(broker: Broker) -> None:
    request = sample_request()
    first = await broker.jobs.enqueue(request, idempotency_key="k")
    again = await broker.jobs.enqueue(request, idempotency_key="k")
    assert again == first
    assert len(await broker.claims.claim("w1", 10, block_s=0)) == 1
    with pytest.raises(IdempotencyConflict, match=first.id):
        await broker.jobs.enqueue(sample_request(prompt="Other"), idempotency_key="k")


async def test_enqueue_said_twice_at_once_is_one_job(broker: Broker) -> None:
    request = sample_request()
    jobs = await asyncio.gather(
        *(broker.jobs.enqueue(request, idempotency_key="k") for _ in range(20))
    )
    assert len({job.id for job in jobs}) == 1


async def test_a_job_whose_image_is_unknown_is_refused(broker: Broker) -> None:
    with pytest.raises(ImageGone, match="sha256:abc"):
        await enqueue(broker, images=["sha256:abc"])
    assert await broker.claims.claim("w1", 1, block_s=0) == []


async def test_the_queue_has_an_end(settings: Settings) -> None:
    async with Broker.connect(settings.model_copy(update={"max_queue_depth": 2})) as broker:
        await enqueue(broker)
        await enqueue(broker)
        with pytest.raises(QueueFull, match="2 open jobs and takes at most 2"):
            await enqueue(broker)
        await broker.claims.finish(await claim_one(broker), sample_result())
        await enqueue(broker)


async def test_a_window_bounds_open_jobs_and_untaken_pairs(broker: Broker) -> None:
    await broker.runs.put("r", RunSettings(window=2))
    await enqueue_bdhs(broker, run="r")
    await enqueue_bdhs(broker, run="r")
    with pytest.raises(WindowFull, match="window is 2"):
        await enqueue_bdhs(broker, run="r")
    claim = await claim_one(broker)
    await broker.claims.finish(claim, bdhs_result(claim))
    with pytest.raises(WindowFull):  # the pair took the job's place
        await enqueue_bdhs(broker, run="r")
    await broker.claims.fail(await claim_one(broker), OOPS)
    await enqueue_bdhs(broker, run="r")
    await enqueue_bdhs(broker, run="other")


async def test_a_lost_reply_enqueues_once(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after the server has run the script; redis-py sends it again."""
    monkeypatch.setattr(broker.connection, "run_durably", twice(broker.connection.run_durably))
    await enqueue(broker)
    monkeypatch.undo()
    assert len(await broker.claims.claim("w1", 10, block_s=0)) == 1


async def _until_blocked(broker: Broker) -> None:
    """Until some client waits in a blocking read."""

    async def blocked() -> bool:
        return (await broker.connection.redis.info("clients"))["blocked_clients"] > 0

    await until(blocked)
