"""Jobs as clients see them: enqueue, look, wait, cancel, follow, retry dead letters.

What workers do with a job is in `claims.py`.
"""

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue, TypeAdapter

from service import tracing
from service.broker.connection import Connection, from_milliseconds, milliseconds
from service.broker.errors import (
    RETRY_AFTER_S,
    BadCursor,
    IdempotencyConflict,
    ImageGone,
    JobGone,
    QueueFull,
    WindowFull,
)
from service.broker.notifications import Notifications, wait_within
from service.broker.runs import DEFAULT_SETTINGS, new_epoch
from service.broker.scripts import script
from service.schemas import (
    TOLERANT,
    Attempt,
    BdhsResult,
    Job,
    JobError,
    JobRequest,
    JobsPage,
    JobsState,
    JobStatus,
    Outcome,
    Result,
    SampleResult,
)

RESULT: TypeAdapter[Result] = TypeAdapter(Result)
METADATA: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])
JOB_ID = re.compile(r"[0-9a-f]{32}")
PLACE = re.compile(r"([0-9]{1,16})-([0-9a-f]{32})")
"""Of a job in a list: milliseconds and id. A page's `before`."""
FIELDS = (
    "kind", "status", "run", "priority", "attempt", "created", "started", "owner", "finished",
    "error", "history", "metadata", "outcome", "left_out", "result",
)  # fmt: skip


@script("jobs/enqueue.lua")
def _enqueue(
    job_id: str,
    kind: str,
    request: str,
    run: str,
    priority: str,
    deadline_ms: int | str,
    metadata: bytes | str,
    images: str,
    key: str,
    fingerprint: str,
    trace: str,
    epoch: str,
    run_settings: str,
) -> list[Any]: ...


@script("jobs/check_room.lua")
def _check_room(run: str, key: str) -> list[Any]: ...


@script("jobs/cancel.lua")
def _cancel(job_id: str) -> None: ...


@script("jobs/list.lua")
def _list(state: str, score: str, id: str, limit: int) -> tuple[list[str], str]: ...


@script("jobs/retry_dead_letter.lua")
def _retry_dead_letter(job_id: str, epoch: str, run_settings: str) -> None: ...


@script("jobs/purge_dead_letters.lua")
def _purge_dead_letters() -> int: ...


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a job's progress; `id` is where a reader goes on."""

    id: str
    data: dict[str, JsonValue]


class Jobs:
    def __init__(self, connection: Connection, notifications: Notifications) -> None:
        self._connection = connection
        self._notifications = notifications

    async def check_room(self, run: str | None, idempotency_key: str | None) -> None:
        """A look before the work that a job's images make. A job that is known needs no room;
        `enqueue` decides.

        Raises: QueueFull, WindowFull.
        """
        key = "" if idempotency_key is None else _key(idempotency_key)
        self._refuse_full(run, *await self._connection.run(_check_room, run or "", key))

    def _refuse_full(self, run: str | None, outcome: str, *figures: Any) -> None:
        """Raises: QueueFull, WindowFull, where a script answered so."""
        if outcome == "full":
            raise QueueFull(figures[0], self._connection.settings.max_queue_depth, RETRY_AFTER_S)
        if outcome == "window":
            raise WindowFull(str(run), *figures)

    async def enqueue(
        self,
        request: JobRequest,
        *,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
    ) -> Job:
        """Takes a job in. Its images must be stored, and named as `sha256:…`.

        With an `idempotency_key` that is known, the job it stands for is returned instead.
        `fingerprint` says when two bodies are the same; by default, when the requests are.

        Raises: QueueFull, WindowFull, ImageGone, IdempotencyConflict, JobGone.
        """
        body = request.stored_json()
        key = ""
        if idempotency_key is not None:
            key = _key(idempotency_key)
            said = f"{request.kind}\n{body}"
            fingerprint = fingerprint or hashlib.sha256(said.encode()).hexdigest()
        job_id = new_job_id()
        outcome, *rest = await self._connection.run_durably(
            _enqueue,
            job_id,
            request.kind.value,
            body,
            request.run or "",
            request.priority.value,
            "" if request.deadline_s is None else milliseconds(request.deadline_s),
            METADATA.dump_json(request.metadata) if request.metadata else "",
            " ".join(dict.fromkeys(request.images)),
            key,
            fingerprint or "",
            tracing.traceparent(),
            new_epoch(),
            DEFAULT_SETTINGS,
        )
        self._refuse_full(request.run, outcome, *rest)
        match outcome:
            case "new":
                return Job(
                    id=job_id,
                    kind=request.kind,
                    status=JobStatus.queued,
                    run=request.run,
                    priority=request.priority,
                    attempt=0,
                    created_at=from_milliseconds(rest[0]),
                    metadata=request.metadata,
                )
            case "known":
                job = await self.get(rest[0])
                if job is None:  # its retention ended this very moment
                    return await self.enqueue(
                        request, idempotency_key=idempotency_key, fingerprint=fingerprint
                    )
                return job
            case "conflict":
                raise IdempotencyConflict(rest[0])
            case "gone":
                raise JobGone(rest[0])
            case _:
                raise ImageGone(rest[0])

    async def get(self, job_id: str) -> Job | None:
        """None: there is no such job (any more)."""
        if not JOB_ID.fullmatch(job_id):
            return None
        values = await self._connection.command(
            "HMGET", self._connection.key("job", job_id), *FIELDS
        )
        return job_from(job_id, values)

    async def wait(self, job_id: str, timeout_s: float) -> Job | None:
        """The job, once it has ended or `timeout_s` has passed. None: there is no such job."""
        if timeout_s <= 0:
            return await self.get(job_id)
        end = time.monotonic() + timeout_s
        async with self._notifications.subscribe(f"job:{job_id}") as changed:
            while True:
                job = await self.get(job_id)
                if job is None or job.ended:
                    return job
                if not await wait_within(changed, end - time.monotonic()):
                    return await self.get(job_id)  # it may have ended unheard

    async def cancel(self, job_id: str) -> Job | None:
        """Ends a job that has not ended. A worker that runs it learns so when it renews."""
        if not JOB_ID.fullmatch(job_id):
            return None
        await self._connection.run(_cancel, job_id)
        return await self.get(job_id)

    async def page(self, where: JobsState, *, before: str | None, limit: int) -> JobsPage:
        """Jobs that are open, have ended (and are still kept), or are dead letters, newest first;
        those after the place `before`, whatever has become of the job that was there.

        Raises: BadCursor.
        """
        score, job_id = "", ""
        if before is not None:
            place = PLACE.fullmatch(before)
            if place is None:
                raise BadCursor(before, "before")
            score, job_id = place.groups()
        ids, last = await self._connection.run(_list, where, score, job_id, limit)
        keys = [self._connection.key("job", id) for id in ids]
        found = await asyncio.gather(
            *(self._connection.command("HMGET", key, *FIELDS[:-1]) for key in keys)
        )
        jobs = [job_from(id, [*values, None]) for id, values in zip(ids, found, strict=True)]
        # None: its retention has just ended.
        return JobsPage(jobs=[job for job in jobs if job is not None], before=last or None)

    async def retry_dead_letter(self, job_id: str) -> Job | None:
        """Gives a dead letter as many attempts as a new job, without its deadline. One that is no
        dead letter is returned as it is."""
        if not JOB_ID.fullmatch(job_id):
            return None
        await self._connection.run(_retry_dead_letter, job_id, new_epoch(), DEFAULT_SETTINGS)
        return await self.get(job_id)

    async def purge_dead_letters(self) -> int:
        """Deletes all dead letters, and returns how many there were."""
        purged = 0
        while some := await self._connection.run(_purge_dead_letters):
            purged += some
        return purged

    async def events(self, job_id: str, after: str = "0-0") -> list[Event]:
        """Progress after the event `after`, oldest first."""
        key = self._connection.key("job", job_id, "events")
        entries = await self._connection.command("XRANGE", key, f"({after}", "+")
        return [Event(id, METADATA.validate_json(fields["event"])) for id, fields in entries]

    async def follow(self, job_id: str, after: str = "0-0") -> AsyncIterator[Event | Job]:
        """Progress events as they come, and the job whenever its state has changed.

        Ends with the ended job. Yields nothing when there is no such job.
        """
        seen: tuple[JobStatus | str, int] | None = None
        async with self._notifications.subscribe(f"job:{job_id}", f"step:{job_id}") as changed:
            while True:
                changed.clear()
                job = await self.get(job_id)
                for event in await self.events(job_id, after):
                    after = event.id
                    yield event
                if job is None:
                    return
                if (job.status, job.attempt) != seen:
                    seen = (job.status, job.attempt)
                    yield job
                if job.ended:
                    return
                await changed.wait()


def new_job_id() -> str:
    """32 hexadecimal digits: milliseconds, then chance; so ids sort by age."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def _key(idempotency_key: str) -> str:
    return hashlib.sha256(idempotency_key.encode()).hexdigest()


def job_from(job_id: str, values: list[Any]) -> Job | None:
    fields: dict[str, Any] = dict(zip(FIELDS, values, strict=True))
    if fields["status"] is None:
        return None
    error, history = fields["error"], (fields["history"] or "").split("\n")
    return Job(
        id=job_id,
        kind=fields["kind"],
        status=fields["status"],
        run=fields["run"],
        priority=fields["priority"],
        attempt=int(fields["attempt"]),
        created_at=from_milliseconds(fields["created"]),
        started_at=from_milliseconds(fields["started"]) if fields["started"] else None,
        worker=fields["owner"],
        finished_at=from_milliseconds(fields["finished"]) if fields["finished"] else None,
        result=result_from(fields) if fields["result"] else None,
        error=JobError.model_validate_json(error, **TOLERANT) if error else None,
        history=[Attempt.model_validate_json(line, **TOLERANT) for line in history if line],
        metadata=METADATA.validate_json(fields["metadata"]) if fields["metadata"] else {},
    )


def result_from(fields: dict[str, Any]) -> Result:
    """The result as its worker stored it, with what the run then said of its pairs."""
    result = RESULT.validate_json(fields["result"], **TOLERANT)
    if fields["outcome"] and isinstance(result, SampleResult | BdhsResult):
        outcome: str = fields["outcome"]
        # One of a later release stays as it is.
        result.outcome = Outcome(outcome) if outcome in Outcome.__members__ else outcome
        left_out = set(map(int, (fields["left_out"] or "").split()))
        result.pairs = [p for place, p in enumerate(result.pairs) if place not in left_out]
    return result
