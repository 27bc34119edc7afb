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
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from service.broker.runs import APPEND_PAIR, DEFAULTS
from service.broker.store import MAX_BLOCK_S, Script, milliseconds, moment, new_epoch, new_nonce
from service.broker.sweeper import PROMOTE, Upkeep
from service.schemas import (
    Attempt,
    BdhsRequest,
    JobError,
    JobKind,
    Pair,
    Result,
    SampleRequest,
    SampleResult,
)

EVENT: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])
MAX_EVENTS = 1000
"""Progress events kept of a job."""

CLAIM = Script(
    PROMOTE
    + """
local worker, wanted = ARGV[1], tonumber(ARGV[2])
promote()
local time = now()
local claims = {}

local function start(id, lane, entry)
  local job = job_key(id)
  local state = redis.call('HMGET', job, 'status', 'entry', 'deadline')
  if state[2] ~= entry then  -- what is left of a job that ended or moved
    redis.call('XACK', lane_key(lane), GROUP, entry)
    redis.call('XDEL', lane_key(lane), entry)
  elseif state[1] == 'running' then
    -- The group was lost and reads its lanes anew. Who runs this job renews it, or it expires.
  elseif state[3] and tonumber(state[3]) <= time then
    miss_deadline(id)
  else
    local attempt = redis.call('HINCRBY', job, 'attempt', 1)
    redis.call('HSET', job, 'status', 'running', 'owner', worker, 'started', time)
    local rest = redis.call('HMGET', job, 'kind', 'request', 'images', 'history', 'run', 'trace')
    if rest[3] then touch_images(rest[3]) end
    if rest[5] then redis.call('SADD', run_key(rest[5]) .. ':running', id) end
    ring('step:' .. id)
    claims[#claims + 1] = {id, rest[1], rest[2], attempt, state[3] or '', rest[4] or '',
      rest[6] or ''}
  end
end

local function read(lane)
  local command = {'XREADGROUP', 'GROUP', GROUP, CONSUMER, 'COUNT', wanted - #claims,
    'STREAMS', lane_key(lane), '>'}
  local reply = redis.pcall(unpack(command))
  if reply and reply.err then
    if not string.find(reply.err, 'NOGROUP') then error(reply.err) end
    redis.call('XGROUP', 'CREATE', lane_key(lane), GROUP, 0, 'MKSTREAM')
    reply = redis.call(unpack(command))
  end
  return reply and reply[1][2] or {}
end

for _, lane in ipairs(LANES) do
  while #claims < wanted do
    local entries = read(lane)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do start(entry[2][2], lane, entry[1]) end
  end
end

-- With nothing to do, the caller waits for what comes after these entries.
local seen, due = {}, ''
if #claims == 0 then
  for _, lane in ipairs(LANES) do
    local info = redis.call('XINFO', 'STREAM', lane_key(lane))
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then seen[#seen + 1] = info[i + 1] end
    end
  end
  local first = redis.call('ZRANGE', NS .. ':retries', 0, 0, 'WITHSCORES')
  if first[2] then due = math.max(0, first[2] - time) end
end
return {claims, seen, due}
"""
)

RENEW = Script("""
local lost = {}
for i = 1, #ARGV, 2 do
  local id, fence = ARGV[i], ARGV[i + 1]
  if owned(id, fence) then
    local place = redis.call('HMGET', job_key(id), 'lane', 'entry')
    local command = {'XCLAIM', lane_key(place[1]), GROUP, CONSUMER, 0, place[2], 'FORCE', 'JUSTID'}
    local reply = redis.pcall(unpack(command))
    if reply.err then  -- the group was lost; FORCE puts the lease into a new one
      redis.call('XGROUP', 'CREATE', lane_key(place[1]), GROUP, 0, 'MKSTREAM')
      redis.call(unpack(command))
    end
  else
    -- Not lost is what this very attempt has just finished.
    local state = redis.call('HMGET', job_key(id), 'status', 'attempt')
    if state[1] ~= 'succeeded' or state[2] ~= fence then lost[#lost + 1] = id end
  end
end
return lost
""")

FINISH = Script(
    APPEND_PAIR
    + """
local id, fence, result, pair, images, version, nonce, epoch, run_settings, unpaired = unpack(ARGV)
if not owned(id, fence) then
  -- True for this very call again (its reply was lost), false for a late finisher.
  local state = redis.call('HMGET', job_key(id), 'status', 'attempt')
  return state[1] == 'succeeded' and state[2] == fence and 1 or 0
end
local run = redis.call('HGET', job_key(id), 'run')
if run and pair ~= '' then
  make_run(run, epoch, run_settings)
  append_pair(run, pair, images, version, nonce)
elseif run and unpaired ~= '' then
  make_run(run, epoch, run_settings)
  redis.call('HINCRBY', run_key(run), unpaired, 1)
end
redis.call('HSET', job_key(id), 'result', result)
redis.call('HDEL', job_key(id), 'error')
conclude(id, 'succeeded')
return 1
"""
)

FAIL = Script("""
local id, fence, error = unpack(ARGV)
if not owned(id, fence) then return 0 end
remember(id, error)
conclude(id, 'failed')
return 1
""")

RETRY = Script("""
local id, fence, error, delay, give_up = unpack(ARGV)
if not owned(id, fence) then return 0 end
remember(id, error)
local tries = fence - (redis.call('HGET', job_key(id), 'released') or 0)
if give_up == '1' or tries >= MAX_ATTEMPTS then
  conclude(id, 'dead')
else
  leave(id)
  redis.call('HSET', job_key(id), 'status', 'retrying')
  redis.call('ZADD', NS .. ':retries', now() + delay, id)
  ring('job:' .. id)
end
return 1
""")

RELEASE = Script("""
local id, fence = unpack(ARGV)
if not owned(id, fence) then return 0 end
leave(id)
redis.call('HINCRBY', job_key(id), 'released', 1)
redis.call('HSET', job_key(id), 'status', 'queued')
enter(id, redis.call('HGET', job_key(id), 'priority') .. ':again')
ring('job:' .. id)
return 1
""")

PROGRESS = Script("""
local id, fence, event, limit = unpack(ARGV)
if not owned(id, fence) then return end
redis.call('XADD', job_key(id) .. ':events', 'MAXLEN', '~', limit, '*', 'event', event)
ring('step:' .. id)
""")


@dataclass(frozen=True, slots=True)
class Claim:
    """A job under lease. Renew it every third of `lease_s`, or another worker gets it."""

    job_id: str
    kind: JobKind
    request: SampleRequest | BdhsRequest
    attempt: int
    """Starts of the job so far, this one included: the fence."""
    worker_id: str
    deadline_at: datetime | None
    history: tuple[JobError, ...] = field(default=())
    """Why earlier attempts did not succeed, oldest first."""
    traceparent: str = ""
    """The trace of the request that it came with (W3C); empty: none."""


class Work(Upkeep):
    """The worker's half of `Jobs`."""

    async def claim(self, worker_id: str, count: int, *, block_s: float) -> list[Claim]:
        """Up to `count` jobs, the most urgent first; waits up to `block_s` for the first.

        Cancelling this call loses nothing: what it had just claimed goes back.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, not {count}")
        end = time.monotonic() + block_s
        while True:
            await self.sweep()
            claims, seen, due_ms = await self._claim_now(worker_id, count)
            left = end - time.monotonic()
            if claims or left <= 0:
                return claims
            if seen:  # else it had claimed what it cannot read, and there may be more
                await self._wait_for_work(seen, min(left, self._sweep_every_s, due_ms / 1000))

    async def _claim_now(self, worker_id: str, count: int) -> tuple[list[Claim], list[str], float]:
        call = asyncio.ensure_future(self._store.run(CLAIM, worker_id, count))
        try:
            claimed, seen, due = await asyncio.shield(call)
        except asyncio.CancelledError:
            for values in (await call)[0]:
                await self._store.run(RELEASE, values[0], values[3])
            raise
        claims: list[Claim] = []
        for values in claimed:
            try:
                claims.append(claim_from(worker_id, values))
            except ValidationError as error:  # enqueued by another release of the service, say
                await self._retry(values[0], values[3], unreadable(error), give_up=False)
        return claims, seen, float("inf") if due == "" else float(due)

    async def _wait_for_work(self, seen: list[str], seconds: float) -> None:
        """Blocks until a lane has an entry newer than those `seen`. Takes nothing.

        A blocking XREADGROUP would take one entry of every lane, more than a worker with one free
        slot may hold, and would leave a moment in which an entry is taken but not started.
        """
        lanes = [
            self._store.key("lane", name)
            for priority in ("high", "normal", "low")
            for name in (f"{priority}:again", priority)
        ]
        block = milliseconds(min(seconds, MAX_BLOCK_S))
        await self._store.alone("XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", *lanes, *seen)

    async def renew(self, claims: Iterable[Claim]) -> set[str]:
        """Extends the leases. Returns the ids of jobs that are no longer this worker's."""
        arguments = [value for claim in claims for value in (claim.job_id, claim.attempt)]
        if not arguments:
            return set()
        return set(await self._store.run(RENEW, *arguments))

    async def finish(self, claim: Claim, result: Result) -> bool:
        """Result, its pair (to the end of the job's run) and end of the job, in one step.

        False: superseded, and nothing was changed.
        """
        pair = result.pairs[0] if result.pairs else None
        done = await self._store.run(
            FINISH,
            claim.job_id,
            claim.attempt,
            result.model_dump_json(),
            pair.model_dump_json() if pair else "",
            " ".join(dict.fromkeys(pair.images)) if pair else "",
            oldest_version(pair) if pair else "",
            new_nonce(),
            new_epoch(),
            DEFAULTS,
            unpaired(result),
        )
        return bool(done)

    async def fail(self, claim: Claim, error: JobError) -> bool:
        """Ends a job that would fail again. False: superseded."""
        return bool(
            await self._store.run(FAIL, claim.job_id, claim.attempt, error.model_dump_json())
        )

    async def retry(self, claim: Claim, error: JobError, *, give_up: bool = False) -> bool:
        """Another attempt after a growing, jittered delay; after the last, the dead letters.

        `give_up` sends it there at once. False: superseded.
        """
        return await self._retry(claim.job_id, claim.attempt, error, give_up=give_up)

    async def _retry(self, job_id: str, attempt: int, error: JobError, *, give_up: bool) -> bool:
        settings = self._store.settings
        longest = min(settings.retry_max_s, settings.retry_base_s * 2 ** (attempt - 1))
        delay = longest * random.uniform(0.5, 1.0)
        return bool(
            await self._store.run(
                RETRY,
                job_id,
                attempt,
                error.model_dump_json(),
                round(delay * 1000),
                int(give_up),
            )
        )

    async def release(self, claim: Claim) -> bool:
        """Hands a job back unharmed: next in its priority, this attempt not counted against it."""
        return bool(await self._store.run(RELEASE, claim.job_id, claim.attempt))

    async def progress(self, claim: Claim, event: dict[str, JsonValue]) -> None:
        """Tells those who follow the job. Ignored when superseded."""
        await self._store.run(
            PROGRESS, claim.job_id, claim.attempt, EVENT.dump_json(event), MAX_EVENTS
        )


def oldest_version(pair: Pair) -> int | str:
    """Of the policy-made sides; empty if the policy made none."""
    versions = [v for v in (pair.chosen_version, pair.rejected_version) if v is not None]
    return min(versions, default="")


def unpaired(result: Result) -> str:
    """The run's figure that counts a ranking which came to no pair; empty: it is no such result."""
    if isinstance(result, SampleResult) and result.annotation is not None:
        return {"tie": "ties", "unreadable": "unreadable"}.get(result.annotation.outcome, "")
    return ""


def unreadable(error: ValidationError) -> JobError:
    return JobError(
        code="unreadable_request",
        message="The worker does not understand this request; is it of the service's release? "
        + "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()),
    )


def claim_from(worker_id: str, values: list[Any]) -> Claim:
    job_id, kind, request, attempt, deadline, history, traceparent = values
    model = BdhsRequest if kind == JobKind.bdhs else SampleRequest
    return Claim(
        job_id=job_id,
        kind=JobKind(kind),
        request=model.model_validate_json(request),
        attempt=attempt,
        worker_id=worker_id,
        deadline_at=moment(deadline) if deadline else None,
        history=tuple(
            Attempt.model_validate_json(line).error for line in history.split("\n") if line
        ),
        traceparent=traceparent,
    )
