"""Lists of jobs read in pages, while jobs come and go."""

from collections.abc import Awaitable, Callable

import pytest

from service.broker import BadCursor, Broker
from service.schemas import Job, JobError, JobsState
from tests.service.samples import claim_one, enqueue

OOPS = JobError(code="oops", message="It broke.")


async def _listed(
    broker: Broker,
    state: JobsState,
    limit: int,
    meanwhile: Callable[[list[Job]], Awaitable[None]] | None = None,
) -> list[str]:
    """Ids of all pages; `meanwhile` is called with each page before the next is read."""
    seen: list[str] = []
    before: str | None = None
    while True:
        page = await broker.jobs.page(state, before=before, limit=limit)
        seen += [job.id for job in page.jobs]
        assert len(seen) < 1000, "the list has no end"
        if meanwhile:
            await meanwhile(page.jobs)
        before = page.before
        if before is None:
            return seen


async def _newest_first(broker: Broker, state: JobsState) -> list[str]:
    key = broker.connection.key(state)
    scores = await broker.connection.redis.zrange(key, 0, -1, withscores=True)
    return [job for job, _ in reversed(scores)]


async def test_open_jobs(broker: Broker) -> None:
    jobs = [await enqueue(broker) for _ in range(7)]
    ids = [job.id for job in sorted(jobs, key=lambda job: (job.created_at, job.id), reverse=True)]
    for limit in (1, 3, 7, 10):
        assert await _listed(broker, "open", limit) == ids
    assert await _listed(broker, "ended", 3) == []


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("moment", ["apart", "one"])
async def test_jobs_that_end_between_pages_neither_hide_nor_repeat_others(
    broker: Broker, limit: int, moment: str
) -> None:
    jobs = [await enqueue(broker) for _ in range(9)]
    if moment == "one":  # all of the same millisecond
        same = dict.fromkeys((job.id for job in jobs), 1_700_000_000_000)
        await broker.connection.redis.zadd(broker.connection.key("open"), same)
    ids = await _newest_first(broker, "open")

    async def cancel(page: list[Job]) -> None:
        for job in page:
            await broker.jobs.cancel(job.id)

    assert await _listed(broker, "open", limit, cancel) == ids
    assert await _newest_first(broker, "open") == []


async def test_of_a_page_only_the_last_ends(broker: Broker) -> None:
    for _ in range(6):
        await enqueue(broker)
    ids = await _newest_first(broker, "open")

    async def cancel(page: list[Job]) -> None:
        for job in page[-1:]:
            await broker.jobs.cancel(job.id)
        await enqueue(broker)  # newer than what was read: not for this reader

    assert await _listed(broker, "open", 2, cancel) == ids


async def test_dead_letters_that_are_revived_or_purged(broker: Broker) -> None:
    for _ in range(6):
        await enqueue(broker)
        await broker.claims.retry(await claim_one(broker), OOPS, give_up=True)
    ids = await _newest_first(broker, "dead")

    async def revive(page: list[Job]) -> None:
        for job in page:
            await broker.jobs.retry_dead_letter(job.id)

    assert await _listed(broker, "dead", 2, revive) == ids
    first = await broker.jobs.page("open", before=None, limit=2)
    assert await broker.jobs.purge_dead_letters() == 0
    for job in first.jobs:
        await broker.jobs.cancel(job.id)
    await broker.connection.redis.delete(*(broker.connection.key("job", j.id) for j in first.jobs))
    await broker.connection.redis.delete(broker.connection.key("ended"))
    rest = await broker.jobs.page("open", before=first.before, limit=9)
    assert len(rest.jobs) == 4


@pytest.mark.parametrize("before", ["", "x", "-", "1-", "1-" + "g" * 32, "a" * 32, "²-" + "a" * 32])
async def test_what_is_no_cursor_is_refused(broker: Broker, before: str) -> None:
    await enqueue(broker)
    with pytest.raises(BadCursor, match="leave `before` out"):
        await broker.jobs.page("open", before=before, limit=1)
