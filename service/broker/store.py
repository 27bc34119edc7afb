"""The connection to Redis or Valkey, and how the rooms beside this one run their Lua on it.

Every change of state is one `Script`, so it happens whole or not at all. All keys of a namespace
but the images share one hash tag: a Cluster keeps them on one shard, where one script may change
them together.
"""

import hashlib
import random
import secrets
from datetime import UTC, datetime
from typing import Any, Protocol, Self, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import NoScriptError

from service.broker import pipeline
from service.broker.pipeline import ANSWER_S, Argument, Calls, DurableCalls, answered_within
from service.settings import Settings

MAX_BLOCK_S = 5.0
"""Longest blocking read, well below `ANSWER_S`; longer waits repeat it."""

CONNECTIONS = 64
"""Of one process, at most. Who finds all in use waits."""

PRELUDE = """
local NS = KEYS[1]
local GROUP, CONSUMER = 'workers', 'any'
local LANES = {'high:again', 'high', 'normal:again', 'normal', 'low:again', 'low'}

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function job_key(id) return NS .. ':job:' .. id end
local function lane_key(lane) return NS .. ':lane:' .. lane end
local function run_key(run) return NS .. ':run:' .. run end

-- One channel for each kind of subject, so that a process hears only the kinds it listens for.
local function ring(subject)
  redis.call('PUBLISH', NS .. ':bell:' .. string.match(subject, '^%a+'), subject)
end

-- Puts the job at the end of a lane.
local function enter(id, lane)
  local entry = redis.call('XADD', lane_key(lane), '*', 'job', id)
  redis.call('HSET', job_key(id), 'lane', lane, 'entry', entry)
end

-- Takes the job out of its lane, and thereby ends its lease.
local function leave(id)
  local place = redis.call('HMGET', job_key(id), 'lane', 'entry')
  if place[2] then
    redis.call('XACK', lane_key(place[1]), GROUP, place[2])
    redis.call('XDEL', lane_key(place[1]), place[2])
    redis.call('HDEL', job_key(id), 'lane', 'entry')
    local run = redis.call('HGET', job_key(id), 'run')
    if run then redis.call('SREM', run_key(run) .. ':running', id) end
  end
end

-- Adds to the job's history, one JSON object a line. Joined as text: cjson would turn [] into {}.
local function remember(id, error)
  local state = redis.call('HMGET', job_key(id), 'attempt', 'owner', 'history')
  local line = '{"attempt":' .. state[1] .. ',"worker":' .. cjson.encode(state[2] or '') ..
    ',"at":' .. string.format('%.3f', now() / 1000) .. ',"error":' .. error .. '}'
  local history = state[3] and state[3] .. '\\n' .. line or line
  redis.call('HSET', job_key(id), 'error', error, 'history', history)
end

-- The one way in which a job ends: out of its lane, and out of every set that counts open jobs.
local function conclude(id, status)
  leave(id)
  local job, time = job_key(id), now()
  redis.call('HSET', job, 'status', status, 'finished', time)
  redis.call('ZREM', NS .. ':open', id)
  redis.call('ZREM', NS .. ':retries', id)
  redis.call('ZREM', NS .. ':deadlines', id)
  local run = redis.call('HGET', job, 'run')
  if run then
    redis.call('ZREM', run_key(run) .. ':open', id)
    if status == 'dead' then redis.call('HINCRBY', run_key(run), 'dead', 1) end
  end
  if status == 'dead' then
    redis.call('ZADD', NS .. ':dead', time, id)
  else
    redis.call('ZADD', NS .. ':ended', time, id)
    redis.call('PEXPIRE', job, RESULT_TTL_MS)
    redis.call('PEXPIRE', job .. ':events', RESULT_TTL_MS)
  end
  redis.call('HINCRBY', NS .. ':stats', status, 1)
  ring('job:' .. id)
end

-- True if this attempt is still the job's own: it runs, and nobody started it anew.
local function owned(id, fence)
  local state = redis.call('HMGET', job_key(id), 'status', 'attempt')
  return state[1] == 'running' and state[2] == fence
end

-- Keeps images that a job or pair has just named; they must be known already.
local function touch_images(refs)
  local time = now()
  for ref in string.gmatch(refs, '%S+') do
    redis.call('ZADD', NS .. ':images', 'XX', 'GT', time, ref)
  end
end

-- Brings a run to life on first mention.
local function make_run(run, epoch, settings)
  if redis.call('EXISTS', run_key(run)) == 0 then
    redis.call('HSET', run_key(run), 'epoch', epoch, 'pairs', 0, unpack(cjson.decode(settings)))
    redis.call('SADD', NS .. ':runs', run)
  end
end
"""


class Subscription(Protocol):
    """What is used of redis-py's pub/sub connection."""

    async def subscribe(self, *channels: str) -> None: ...
    async def ping(self) -> Any: ...
    async def get_message(self, *, timeout: float) -> dict[str, Any] | None: ...
    async def aclose(self) -> None: ...


class Script:
    """Lua that runs as one step, after `PRELUDE`. KEYS[1] is the namespace's hash tag."""

    def __init__(self, lua: str) -> None:
        self.lua = lua


class Store:
    """One namespace on one server."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self.redis = cast(Any, redis)  # redis-py's annotations are partly unknown
        self.settings = settings
        self.tag = "{" + settings.namespace + "}"
        self._constants = "".join(
            f"local {name} = {value}\n"
            for name, value in {
                "RESULT_TTL_MS": milliseconds(settings.result_ttl_s),
                "IDEMPOTENCY_TTL_MS": milliseconds(settings.idempotency_ttl_s),
                "LEASE_MS": milliseconds(settings.lease_s),
                "MAX_ATTEMPTS": settings.max_attempts,
                "MAX_DEPTH": settings.max_queue_depth,
                "MAX_ENDED": settings.max_ended_jobs,
            }.items()
        )
        self._texts: dict[Script, tuple[str, str]] = {}
        self._calls = Calls(self.redis)
        self._durable_calls = DurableCalls(self.redis, settings.fsync_timeout_s)

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Connects lazily: the first command opens the first connection."""
        pool = cast(Any, BlockingConnectionPool).from_url(
            settings.redis_address,
            max_connections=CONNECTIONS,
            timeout=ANSWER_S,
            decode_responses=True,
            # Calls have a timeout of their own. redis-py's (5 s by default) goes through
            # asyncio.wait_for, which before Python 3.12 can swallow a cancellation.
            socket_timeout=None,
            socket_connect_timeout=ANSWER_S,
            # Enough for a dropped connection. All scripts may safely run twice; a server that is
            # away longer is the caller's to see.
            retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=3),
        )
        return cls(cast(Any, Redis).from_pool(pool), settings)

    def key(self, *parts: str) -> str:
        return ":".join((self.tag, *parts))

    async def command(self, *args: Argument) -> Any:
        return await self._calls.call(*args)

    async def alone(self, *args: Argument, **options: bool) -> Any:
        """A command on a connection of its own: one that blocks, or is large."""
        async with answered_within(pipeline.ANSWER_S):
            return await self.redis.execute_command(*args, **options)

    async def run(self, script: Script, *args: Argument) -> Any:
        return await self._run(self._calls, script, args)

    async def run_durably(self, script: Script, *args: Argument) -> Any:
        """As `run`; under `durability=fsync`, returns only when the change is on disk.

        Raises: NotDurable.
        """
        durable = self.settings.durability == "fsync"
        return await self._run(self._durable_calls if durable else self._calls, script, args)

    async def _run(self, to: Calls, script: Script, args: tuple[Argument, ...]) -> Any:
        text, sha = self.text(script)
        try:
            return await to.call("EVALSHA", sha, 1, self.tag, *args)
        except NoScriptError:  # a new server, or one that was restarted
            return await to.call("EVAL", text, 1, self.tag, *args)

    def text(self, script: Script) -> tuple[str, str]:
        """The whole script, and the SHA-1 by which the server knows it."""
        if script not in self._texts:
            text = self._constants + PRELUDE + script.lua
            sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            self._texts[script] = text, sha
        return self._texts[script]

    def subscription(self) -> Subscription:
        return self.redis.pubsub()

    async def close(self) -> None:
        await self._calls.close()
        await self._durable_calls.close()
        await self.redis.aclose()


def milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def moment(milliseconds: str | int | float) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)


def new_epoch() -> str:
    return secrets.token_hex(4)


def new_nonce() -> int:
    """Tells a pair from another that took the same place in a log that went back."""
    return random.getrandbits(31)
