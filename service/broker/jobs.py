"""Jobs as those see them who ask for them: enqueue, look, wait, cancel, follow.

What workers do with a job is in `claims.py`.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue, TypeAdapter

from service import tracing
from service.broker.claims import Work
from service.broker.errors import (
    RETRY_AFTER_S,
    IdempotencyConflict,
    ImageGone,
    QueueFull,
    WindowFull,
)
from service.broker.notifications import Bell, ring_within
from service.broker.runs import DEFAULTS, WAITING
from service.broker.store import Script, Store, milliseconds, moment, new_epoch
from service.schemas import (
    Attempt,
    BdhsRequest,
    Job,
    JobError,
    JobKind,
    JobsPage,
    JobsState,
    JobStatus,
    Priority,
    Result,
    SampleRequest,
)

RESULT: TypeAdapter[Result] = TypeAdapter(Result)
METADATA: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])
FIELDS = (
    "kind", "status", "run", "priority", "attempt", "created", "started", "owner", "finished",
    "error", "history", "metadata", "result",
)  # fmt: skip

ENQUEUE = Script(
    WAITING
    + """
local id, kind, request, run, priority, deadline, metadata, images, key, fingerprint, trace,
  epoch, run_settings = unpack(ARGV)
if redis.call('EXISTS', job_key(id)) == 1 then  -- this very call again: its reply was lost
  return {'new', redis.call('HGET', job_key(id), 'created')}
end
if key ~= '' then
  local first = redis.call('HMGET', NS .. ':key:' .. key, 'job', 'fingerprint')
  if first[1] and redis.call('EXISTS', job_key(first[1])) == 1 then
    return {first[2] == fingerprint and 'known' or 'conflict', first[1]}
  end
end
local depth = redis.call('ZCARD', NS .. ':open')
if depth >= MAX_DEPTH then return {'full', depth} end
if run ~= '' then
  make_run(run, epoch, run_settings)
  local window = tonumber(redis.call('HGET', run_key(run), 'window'))
  local used = redis.call('ZCARD', run_key(run) .. ':open') + waiting(run, 'trainer')
  if used >= window then return {'window', used, window} end
end
for ref in string.gmatch(images, '%S+') do
  if not redis.call('ZSCORE', NS .. ':images', ref) then return {'image', ref} end
end
touch_images(images)

local time = now()
redis.call('HSET', job_key(id), 'kind', kind, 'request', request, 'status', 'queued',
  'priority', priority, 'attempt', 0, 'created', time)
if images ~= '' then redis.call('HSET', job_key(id), 'images', images) end
if metadata ~= '' then redis.call('HSET', job_key(id), 'metadata', metadata) end
if trace ~= '' then redis.call('HSET', job_key(id), 'trace', trace) end
if run ~= '' then
  redis.call('HSET', job_key(id), 'run', run)
  redis.call('ZADD', run_key(run) .. ':open', time, id)
end
if deadline ~= '' then
  redis.call('HSET', job_key(id), 'deadline', time + deadline)
  redis.call('ZADD', NS .. ':deadlines', time + deadline, id)
end
if key ~= '' then
  redis.call('HSET', NS .. ':key:' .. key, 'job', id, 'fingerprint', fingerprint)
  redis.call('PEXPIRE', NS .. ':key:' .. key, IDEMPOTENCY_TTL_MS)
end
redis.call('ZADD', NS .. ':open', time, id)
enter(id, priority)
return {'new', time}
"""
)

CANCEL = Script("""
local id = ARGV[1]
local status = redis.call('HGET', job_key(id), 'status')
if status == 'queued' or status == 'retrying' or status == 'running' then
  conclude(id, 'cancelled')
  if status == 'running' then ring('lost') end
end
""")


LIST = Script("""
local set, before, limit = NS .. ':' .. ARGV[1], ARGV[2], ARGV[3]
local start = 0
if before ~= '' then
  local rank = redis.call('ZREVRANK', set, before)
  start = rank and rank + 1 or 0
end
return redis.call('ZREVRANGE', set, start, start + limit - 1)
""")

REVIVE = Script("""
local id, epoch, run_settings = unpack(ARGV)
local job, time = job_key(id), now()
if redis.call('HGET', job, 'status') ~= 'dead' then return end
redis.call('ZREM', NS .. ':dead', id)
redis.call('HSET', job, 'status', 'queued', 'released', redis.call('HGET', job, 'attempt'))
redis.call('HDEL', job, 'finished', 'deadline')
redis.call('ZADD', NS .. ':open', time, id)
local state = redis.call('HMGET', job, 'run', 'priority', 'images')
if state[1] then
  make_run(state[1], epoch, run_settings)  -- it may have been deleted since
  redis.call('ZADD', run_key(state[1]) .. ':open', time, id)
end
if state[3] then touch_images(state[3]) end
enter(id, state[2])
ring('job:' .. id)
""")

PURGE = Script("""
local letters = redis.call('ZPOPMIN', NS .. ':dead', 1000)
for i = 1, #letters, 2 do
  redis.call('UNLINK', job_key(letters[i]), job_key(letters[i]) .. ':events')
end
return #letters / 2
""")


@dataclass(frozen=True, slots=True)
class Event:
    """One step of a job's progress; `id` is where a reader goes on."""

    id: str
    data: dict[str, JsonValue]


class Jobs(Work):
    """All that can be done with jobs; the worker's half is inherited."""

    def __init__(self, store: Store, bell: Bell) -> None:
        super().__init__(store)
        self._bell = bell

    async def enqueue(
        self,
        kind: JobKind,
        request: SampleRequest | BdhsRequest,
        *,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
    ) -> Job:
        """Takes a job in. Its images must be stored, and named as `sha256:…`.

        With an `idempotency_key` that is known, the job it stands for is returned instead.
        `fingerprint` says when two bodies are the same; by default, when the requests are.

        Raises: QueueFull, WindowFull, ImageGone, IdempotencyConflict.
        """
        body = request.model_dump_json()
        key = ""
        if idempotency_key is not None:
            key = hashlib.sha256(idempotency_key.encode()).hexdigest()
            fingerprint = fingerprint or hashlib.sha256(f"{kind}\n{body}".encode()).hexdigest()
        job_id = new_job_id()
        outcome, *rest = await self._store.run_durably(
            ENQUEUE,
            job_id,
            kind.value,
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
            DEFAULTS,
        )
        match outcome:
            case "new":
                return Job(
                    id=job_id,
                    kind=kind,
                    status=JobStatus.queued,
                    run=request.run,
                    priority=request.priority,
                    attempt=0,
                    created_at=moment(rest[0]),
                    metadata=request.metadata,
                )
            case "known":
                job = await self.get(rest[0])
                if job is None:  # its retention ended this very moment
                    return await self.enqueue(
                        kind, request, idempotency_key=idempotency_key, fingerprint=fingerprint
                    )
                return job
            case "conflict":
                raise IdempotencyConflict(rest[0])
            case "full":
                raise QueueFull(rest[0], self._store.settings.max_queue_depth, RETRY_AFTER_S)
            case "window":
                raise WindowFull(str(request.run), rest[0], int(rest[1]), RETRY_AFTER_S)
            case _:
                raise ImageGone(rest[0])

    async def get(self, job_id: str) -> Job | None:
        values = await self._store.command("HMGET", self._store.key("job", job_id), *FIELDS)
        return job_from(job_id, values)

    async def wait(self, job_id: str, timeout_s: float) -> Job | None:
        """The job, once it has ended or `timeout_s` has passed. None: there is no such job."""
        if timeout_s <= 0:
            return await self.get(job_id)
        end = time.monotonic() + timeout_s
        async with self._bell.listen(f"job:{job_id}") as rung:
            while True:
                job = await self.get(job_id)
                if job is None or job.ended:
                    return job
                if not await ring_within(rung, end - time.monotonic()):
                    return job

    async def cancel(self, job_id: str) -> Job | None:
        """Ends a job that has not ended. A worker that runs it learns so when it renews."""
        await self._store.run(CANCEL, job_id)
        return await self.get(job_id)

    async def page(self, where: JobsState, *, before: str | None, limit: int) -> JobsPage:
        """Jobs that are open, have ended (and are still kept), or are dead letters."""
        ids = await self._store.run(LIST, where, before or "", limit)
        jobs: list[Job] = []
        for job_id in ids:
            key = self._store.key("job", job_id)
            values = await self._store.command("HMGET", key, *FIELDS[:-1])
            job = job_from(job_id, [*values, None])
            if job is not None:  # else its retention has just ended
                jobs.append(job)
        return JobsPage(jobs=jobs, before=ids[-1] if len(ids) == limit else None)

    async def revive(self, job_id: str) -> Job | None:
        """Gives a dead letter as many attempts as a new job, without its deadline. One that is no
        dead letter is returned as it is."""
        await self._store.run(REVIVE, job_id, new_epoch(), DEFAULTS)
        return await self.get(job_id)

    async def purge(self) -> int:
        """Deletes all dead letters, and returns how many there were."""
        purged = 0
        while some := await self._store.run(PURGE):
            purged += some
        return purged

    async def events(self, job_id: str, after: str = "0-0") -> list[Event]:
        """Progress after the event `after`, oldest first."""
        key = self._store.key("job", job_id, "events")
        entries = await self._store.command("XRANGE", key, f"({after}", "+")
        return [Event(id, METADATA.validate_json(fields["event"])) for id, fields in entries]

    def losses(self) -> AbstractAsyncContextManager[asyncio.Event]:
        """An event that is set when some worker has lost a job: cancelled, past its deadline, or
        silent for too long. `renew` says whether it was one's own."""
        return self._bell.listen("lost")

    async def follow(self, job_id: str, after: str = "0-0") -> AsyncIterator[Event | Job]:
        """Progress events as they come, and the job whenever its state has changed.

        Ends with the ended job. Yields nothing when there is no such job.
        """
        seen: tuple[JobStatus | str, int] | None = None
        async with self._bell.listen(f"job:{job_id}", f"step:{job_id}") as rung:
            while True:
                rung.clear()
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
                await rung.wait()


def new_job_id() -> str:
    """32 hexadecimal digits: milliseconds, then chance; so ids sort by age."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def job_from(job_id: str, values: list[Any]) -> Job | None:
    fields: dict[str, Any] = dict(zip(FIELDS, values, strict=True))
    if fields["status"] is None:
        return None
    return Job(
        id=job_id,
        kind=JobKind(fields["kind"]),
        status=JobStatus(fields["status"]),
        run=fields["run"],
        priority=Priority(fields["priority"]),
        attempt=int(fields["attempt"]),
        created_at=moment(fields["created"]),
        started_at=moment(fields["started"]) if fields["started"] else None,
        worker=fields["owner"],
        finished_at=moment(fields["finished"]) if fields["finished"] else None,
        result=RESULT.validate_json(fields["result"]) if fields["result"] else None,
        error=JobError.model_validate_json(fields["error"]) if fields["error"] else None,
        history=[
            Attempt.model_validate_json(line)
            for line in (fields["history"] or "").split("\n")
            if line
        ],
        metadata=METADATA.validate_json(fields["metadata"]) if fields["metadata"] else {},
    )
