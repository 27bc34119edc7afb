"""Jobs as workers see them: claim, renew, finish, fail, retry, release, report progress.

A claim is a lease on a job. The lease is the idle time of the job's entry in the consumer group;
the attempt's number is its fence: whoever comes late, after the lease ran out and another worker
started the job, no longer matches it and changes nothing.

One consumer name serves all workers. Who holds a job stands in the job; so workers that come and
go leave nothing behind in the group.
"""

import asyncio
import random
import time
from collections.abc import Collection, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from service.broker.connection import MAX_BLOCK_S, Connection, from_milliseconds, milliseconds
from service.broker.notifications import Notifications
from service.broker.runs import DEFAULT_SETTINGS, new_epoch, new_nonce, offered_figures
from service.broker.scripts import script
from service.broker.sweeper import Sweeper
from service.excerpts import excerpt
from service.schemas import (
    TOLERANT,
    Attempt,
    BdhsRequest,
    JobError,
    JobKind,
    JobRequest,
    LogprobsRequest,
    Outcome,
    Pair,
    Result,
    SampleRequest,
)

EVENT: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])
MAX_EVENTS = 1000
"""Progress events kept of a job."""

REQUESTS: dict[str, type[JobRequest]] = {
    request.kind: request for request in (SampleRequest, BdhsRequest, LogprobsRequest)
}
"""What is asked, by the kind of the job."""

KINDS = tuple(REQUESTS)
"""The kinds of jobs that this release can claim."""

UNREADABLE_DELAY_S = 1.0
"""Least time until somebody else is asked for a job that a worker could not read."""

UNREADABLE_S = 3600.0
"""How long such a job waits for a worker that can read it; then it is dead."""

MAX_DOUBLINGS = 32
"""Of a retry's delay: beyond any `retry_max_s`, and far from what a float cannot hold."""


@script("claims/claim.lua")
def _claim(worker: str, limit: int, *kinds: str) -> list[Any]: ...


@script("claims/renew.lua")
def _renew(*claims: str | int) -> list[str]: ...


@script("claims/finish.lua")
def _finish(
    job_id: str,
    fence: int,
    result: str,
    outcome: str,
    epoch: str,
    run_settings: str,
    *pair_fields: str | int,
) -> int: ...


@script("claims/fail.lua")
def _fail(job_id: str, fence: int, problem: str) -> int: ...


@script("claims/retry.lua")
def _retry(job_id: str, fence: int, problem: str, delay_ms: int, give_up: int) -> int: ...


@script("claims/release.lua")
def _release(job_id: str, fence: int) -> int: ...


@script("claims/release_unreadable.lua")
def _release_unreadable(
    job_id: str, fence: int, problem: str, delay_ms: int, give_up_ms: int
) -> int: ...


@script("claims/progress.lua")
def _progress(job_id: str, fence: int, event: bytes, limit: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Claim:
    """A job under lease. Renew it every third of `lease_s`, or another worker gets it."""

    job_id: str
    kind: JobKind
    request: JobRequest
    attempt: int
    """Starts of the job so far, this one included: the fence."""
    worker_id: str
    deadline_at: datetime | None
    history: tuple[JobError, ...] = field(default=())
    """Why earlier attempts did not succeed, oldest first."""
    traceparent: str = ""
    """The trace of the request that it came with (W3C); empty: none."""


class Claims:
    def __init__(
        self, connection: Connection, notifications: Notifications, sweeper: Sweeper
    ) -> None:
        self._connection = connection
        self._notifications = notifications
        self._sweeper = sweeper

    async def claim(
        self, worker_id: str, count: int, *, block_s: float, kinds: Collection[str] = KINDS
    ) -> list[Claim]:
        """Up to `count` jobs of these kinds, the most urgent first; waits up to `block_s` for the
        first. Jobs of other kinds are left to workers that know them.

        Cancelling this call loses nothing: what it had just claimed goes back. Raises: ValueError
        for less than one job, for no kind, and for a kind that is not among `KINDS`.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        if not kinds or not set(kinds) <= set(KINDS):
            raise ValueError(f"kinds must be some of {', '.join(KINDS)}, not {list(kinds)}")
        end = time.monotonic() + block_s
        while True:
            await self._sweeper.sweep()
            claims, lanes, due_ms = await self._claim_now(worker_id, count, kinds)
            left = end - time.monotonic()
            if claims or left <= 0:
                return claims
            if lanes:  # else there may be more at once
                await self._wait_for_work(lanes, min(left, self._sweeper.interval_s, due_ms / 1000))

    async def _claim_now(
        self, worker_id: str, count: int, kinds: Iterable[str]
    ) -> tuple[list[Claim], dict[str, str], float]:
        """Claims; if there is nothing to claim, the last entry of each lane, by its key; and the
        time until the next retry, in milliseconds."""
        call = asyncio.ensure_future(self._connection.run(_claim, worker_id, count, *kinds))
        try:
            claimed, lanes, last_ids, due = await asyncio.shield(call)
        except asyncio.CancelledError:
            for values in (await call)[0]:
                await self._connection.run(_release, values[0], values[3])
            raise
        claims: list[Claim] = []
        for values in claimed:
            try:
                claims.append(claim_from(worker_id, values))
            except ValidationError as error:  # enqueued by another release of the service, say
                await self._release_unreadable(values[0], values[3], unreadable(error))
        last = dict(zip(lanes, last_ids, strict=True))
        return claims, last, float("inf") if due == "" else float(due)

    async def _wait_for_work(self, lanes: dict[str, str], seconds: float) -> None:
        """Blocks until a lane has an entry newer than its last one. Takes nothing.

        A blocking XREADGROUP would take one entry of every lane, more than a worker with one free
        slot may hold, and would leave a moment in which an entry is taken but not started.
        """
        block = milliseconds(min(seconds, MAX_BLOCK_S))
        await self._connection.unpipelined(
            "XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", *lanes, *lanes.values()
        )

    async def renew(self, claims: Iterable[Claim]) -> set[str]:
        """Extends the leases. Returns the ids of jobs that are no longer this worker's."""
        arguments = [value for claim in claims for value in (claim.job_id, claim.attempt)]
        if not arguments:
            return set()
        return set(await self._connection.run(_renew, *arguments))

    async def finish(self, claim: Claim, result: Result) -> bool:
        """Result, its pairs (to the end of the job's run, unless it leaves them out) and end of the
        job, in one step.

        False: superseded, and nothing was changed.
        """
        done = await self._connection.run(
            _finish,
            claim.job_id,
            claim.attempt,
            result.model_dump_json(),
            result.outcome or (Outcome.pair if result.pairs else ""),
            new_epoch(),
            DEFAULT_SETTINGS,
            *(field for pair in result.pairs for field in pair_fields(pair)),
        )
        return bool(done)

    async def fail(self, claim: Claim, error: JobError) -> bool:
        """Ends a job that would fail again. False: superseded."""
        problem = error.model_dump_json()
        return bool(await self._connection.run(_fail, claim.job_id, claim.attempt, problem))

    async def retry(self, claim: Claim, error: JobError, *, give_up: bool = False) -> bool:
        """Another attempt after a growing, jittered delay; after the last, the dead letters.

        `give_up` sends it there at once. False: superseded.
        """
        delay_ms = round(self._retry_delay_s(claim.attempt) * 1000)
        problem = error.model_dump_json()
        return bool(
            await self._connection.run(
                _retry, claim.job_id, claim.attempt, problem, delay_ms, int(give_up)
            )
        )

    def _retry_delay_s(self, attempt: int) -> float:
        settings = self._connection.settings
        delay_s = settings.retry_base_s * 2 ** min(attempt - 1, MAX_DOUBLINGS)
        return min(settings.retry_max_s, delay_s) * random.uniform(0.5, 1.0)

    async def release(self, claim: Claim) -> bool:
        """Hands a job back unharmed: next in its priority, this attempt not counted against it."""
        return bool(await self._connection.run(_release, claim.job_id, claim.attempt))

    async def _release_unreadable(self, job_id: str, attempt: int, error: JobError) -> None:
        """Hands back a job for another worker to read, this attempt not counted against it; to the
        dead letters if none could for `UNREADABLE_S`."""
        delay_s = max(UNREADABLE_DELAY_S, self._retry_delay_s(attempt))
        await self._connection.run(
            _release_unreadable,
            job_id,
            attempt,
            error.model_dump_json(),
            milliseconds(delay_s),
            milliseconds(UNREADABLE_S),
        )

    def revoked(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """An event that is set when some worker has lost a job: cancelled, past its deadline, or
        silent for too long. `renew` says whether it was one's own. It is set, too, when the
        settings change, which may have made leases shorter."""
        return self._notifications.subscribe("lost", "settings")

    async def progress(self, claim: Claim, event: dict[str, JsonValue]) -> None:
        """Tells those who follow the job. Ignored when superseded."""
        await self._connection.run(
            _progress, claim.job_id, claim.attempt, EVENT.dump_json(event), MAX_EVENTS
        )


def pair_fields(pair: Pair) -> tuple[str | int, ...]:
    """Of a pair, what `finish.lua` takes."""
    images = " ".join(dict.fromkeys(pair.images))
    version = oldest_version(pair)
    return pair.model_dump_json(), images, version, new_nonce(), offered_figures(pair)


def oldest_version(pair: Pair) -> int | str:
    """Of the policy-made sides; empty if the policy made none."""
    versions = [v for v in (pair.chosen_version, pair.rejected_version) if v is not None]
    return min(versions, default="")


def unreadable(error: ValidationError) -> JobError:
    return JobError(
        code="unreadable_request",
        message="No worker has understood this request yet; are they of the service's release? "
        f"It is dead after {UNREADABLE_S / 3600:g} h. "
        + excerpt("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())),
    )


def claim_from(worker_id: str, values: list[Any]) -> Claim:
    job_id, kind, request, attempt, deadline, history, traceparent = values
    return Claim(
        job_id=job_id,
        kind=JobKind(kind),
        request=REQUESTS[kind].model_validate_json(request),
        attempt=attempt,
        worker_id=worker_id,
        deadline_at=from_milliseconds(deadline) if deadline else None,
        history=tuple(
            Attempt.model_validate_json(line, **TOLERANT).error
            for line in history.split("\n")
            if line
        ),
        traceparent=traceparent,
    )
