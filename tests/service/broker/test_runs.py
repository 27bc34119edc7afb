"""Runs and their logs."""

import asyncio

import pytest

from service.broker import BadCursor, Broker, LogChanged, RunBusy, runs
from service.schemas import JobError, LeaseRequest, RunSettings
from tests.service.samples import bdhs_result, claim_one, enqueue_bdhs

pytestmark = pytest.mark.asyncio


async def _append(broker: Broker, run: str = "r") -> str:
    job = await enqueue_bdhs(broker, run=run)
    claim = await claim_one(broker)
    assert await broker.claims.finish(claim, bdhs_result(claim))
    return job.id


async def test_a_run_has_settings_and_figures(broker: Broker) -> None:
    assert await broker.runs.get("r") is None
    settings = RunSettings(window=7, max_staleness=2, stale="deliver")
    run = await broker.runs.put("r", settings)
    assert (run.settings, run.open_jobs, run.pairs) == (settings, 0, 0)
    await _append(broker)
    await enqueue_bdhs(broker, run="r")
    changed = await broker.runs.put("r", RunSettings(window=9))
    assert changed.epoch == run.epoch
    assert changed.settings == settings.model_copy(update={"window": 9}), "the others stay"
    assert (changed.open_jobs, changed.pairs) == (1, 1)
    assert (await broker.runs.put("r", RunSettings())).settings == changed.settings
    anew = RunSettings.model_validate(RunSettings().model_dump())  # all of them named
    assert (await broker.runs.put("r", anew)).settings == RunSettings()


async def test_a_job_brings_its_run_to_life(broker: Broker) -> None:
    await enqueue_bdhs(broker, run="r")
    run = await broker.runs.get("r")
    assert run
    assert run.settings == RunSettings()
    assert await broker.runs.names() == ["r"]


async def test_the_log_is_read_in_pages(broker: Broker) -> None:
    ids = [await _append(broker) for _ in range(5)]
    read: list[str] = []
    cursor = None
    for size in (2, 2, 1, 0):
        page = await broker.runs.pairs("r", cursor, 2)
        assert len(page.pairs) == size
        read += [pair.pair_id for pair in page.pairs]
        cursor = page.cursor
    assert read == ids
    ids.append(await _append(broker))
    page = await broker.runs.pairs("r", cursor, 2)
    assert [pair.pair_id for pair in page.pairs] == ids[-1:]


async def test_an_empty_log_has_a_cursor_too(broker: Broker) -> None:
    with pytest.raises(KeyError):
        await broker.runs.pairs("r", None, 1)
    await broker.runs.put("r", RunSettings())
    page = await broker.runs.pairs("r", None, 1)
    pair_id = await _append(broker)
    [pair] = (await broker.runs.pairs("r", page.cursor, 1)).pairs
    assert pair.pair_id == pair_id


async def test_a_run_is_deleted_whole(broker: Broker) -> None:
    await _append(broker)
    batch = await broker.batches.lease("r", LeaseRequest(size=1))
    assert batch is not None
    with pytest.raises(RunBusy, match="0 open jobs, and 1 batches"):
        await broker.runs.delete("r")
    await broker.batches.ack("r", batch.lease)
    await enqueue_bdhs(broker, run="r")
    with pytest.raises(RunBusy, match="1 open jobs, and 0 batches"):
        await broker.runs.delete("r")
    await broker.claims.fail(await claim_one(broker), JobError(code="no", message="No."))

    await broker.runs.delete("r")
    assert await broker.runs.names() == []
    assert await broker.runs.get("r") is None
    with pytest.raises(KeyError):
        await broker.runs.delete("r")
    with pytest.raises(LogChanged, match="no such run"):
        await broker.batches.ack("r", batch.lease)
    await _append(broker)
    again = await broker.runs.get("r")
    assert again is not None
    assert (again.pairs, again.groups) == (1, [])


async def test_a_forced_deletion_cancels_and_ends_all(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MAX_CANCELLED", 2)
    await _append(broker)
    assert await broker.batches.lease("r", LeaseRequest(size=1))
    jobs = [await enqueue_bdhs(broker, run="r") for _ in range(5)]
    claim = await claim_one(broker)
    async with broker.claims.revoked() as lost:
        lost.clear()
        await broker.runs.delete("r", force=True)
        await asyncio.wait_for(lost.wait(), 10)
    for job in jobs:
        ended = await broker.jobs.get(job.id)
        assert ended is not None
        assert ended.status == "cancelled"
    assert not await broker.claims.finish(claim, bdhs_result(claim))
    assert await broker.runs.names() == []


async def test_a_dead_letter_of_a_deleted_run_can_be_retried(broker: Broker) -> None:
    job = await enqueue_bdhs(broker, run="r")
    error = JobError(code="no", message="No.")
    await broker.claims.retry(await claim_one(broker), error, give_up=True)
    await broker.runs.delete("r")
    await broker.jobs.retry_dead_letter(job.id)
    claim = await claim_one(broker)
    assert await broker.claims.finish(claim, bdhs_result(claim))
    assert [pair.pair_id for pair in (await broker.runs.pairs("r", None, 9)).pairs] == [job.id]


async def test_images_of_a_deleted_run_are_swept(broker: Broker) -> None:
    await _append(broker)
    connection = broker.connection
    [ref] = (await broker.runs.pairs("r", None, 1)).pairs[0].images

    async def sweep() -> int:
        await connection.redis.delete(connection.key("images_swept"))
        await connection.redis.zadd(connection.key("images"), {ref: 1})  # not named for long
        return await broker.images.sweep()

    assert await sweep() == 0
    await broker.runs.delete("r")
    assert await sweep() == 1


@pytest.mark.parametrize("cursor", ["x", "ab.1", "ab.1-", "ab.-1", "ab.1-²", "ab.1-1;DEL", "." * 9])
async def test_a_bad_cursor_is_refused(broker: Broker, cursor: str) -> None:
    await broker.runs.put("r", RunSettings())
    with pytest.raises(BadCursor, match="is no cursor"):
        await broker.runs.pairs("r", cursor, 1)


async def test_a_log_that_was_made_anew_is_noticed(broker: Broker) -> None:
    await _append(broker)
    cursor = (await broker.runs.pairs("r", None, 1)).cursor
    await broker.connection.redis.flushall()
    await _append(broker)
    with pytest.raises(LogChanged, match="made anew"):
        await broker.runs.pairs("r", cursor, 1)


async def test_a_log_that_went_back_is_noticed(broker: Broker) -> None:
    """As after a power loss: the epoch is the old one, the tail is gone, others take its place."""
    redis, key = broker.connection.redis, broker.connection.key
    await _append(broker)
    run = await redis.hgetall(key("run", "r"))
    await _append(broker)
    cursor = (await broker.runs.pairs("r", None, 10)).cursor
    head, _ = await redis.xrange(key("run", "r", "log"))
    await redis.delete(key("run", "r", "log"))
    await redis.xadd(key("run", "r", "log"), head[1], id=head[0])
    await redis.hset(key("run", "r"), mapping=run)

    with pytest.raises(LogChanged, match="went back to position 1"):
        await broker.runs.pairs("r", cursor, 10)
    await _append(broker)
    with pytest.raises(LogChanged, match="grew anew"):
        await broker.runs.pairs("r", cursor, 10)
