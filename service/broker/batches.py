"""Batches: pairs of a run, leased to the subscribers of a group.

A group is a position (`taken`: all up to it was leased or set aside) and some sets of positions:
`unacked` (leased at least once, not acknowledged), `again` (of those, to be delivered again),
`aside` (beyond `taken`, set aside as stale), and what each lease holds. Figures come from these.
"""

import secrets
import time
from typing import Any

from service.broker.errors import LeaseLost, LogChanged
from service.broker.notifications import Bell, ring_within
from service.broker.runs import GROUPS, Cursor
from service.broker.store import Script, Store, milliseconds, moment
from service.schemas import Batch, Delivery, LeaseRequest, Pair

HAND_BACK = """
-- Ends a lease; what it held is delivered again, before anything new.
local function hand_back(run, group, lease)
  local g = group_key(run, group)
  local held = redis.call('HGET', g .. ':held', lease)
  redis.call('ZREM', g .. ':leases', lease)
  redis.call('HDEL', g .. ':held', lease)
  if not held then return end
  for position in string.gmatch(held, '%d+') do
    redis.call('ZADD', g .. ':again', position, position)
    redis.call('HINCRBY', g .. ':tries', position, 1)
    redis.call('HINCRBY', g, 'redelivered', 1)
  end
end
"""

LEASE = Script(
    GROUPS
    + HAND_BACK
    + """
local run, group, size, need, lease_ms, token =
  ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local key, g, time = run_key(run), group_key(run, group), now()
local state = redis.call('HMGET', key, 'epoch', 'window', 'max_staleness', 'stale', 'trimmed')
if not state[1] then return {'no run'} end
need = math.min(need, tonumber(state[2]))
local newest = tonumber(redis.call('HGET', NS .. ':weights', 'newest') or 0)
local bound = tonumber(state[3] or '')

for _, ended in ipairs(redis.call('ZRANGEBYSCORE', g .. ':leases', 0, time)) do
  hand_back(run, group, ended)
end
local lease = state[1] .. '~' .. group .. '~' .. token
hand_back(run, group, lease)  -- this very call again: what the lost reply held comes first

-- A new group begins with the oldest pair that is kept. One that retention overtook misses some.
local taken, trimmed = tonumber(redis.call('HGET', g, 'taken')), position_of(state[5])
if not taken then
  redis.call('SADD', key .. ':groups', group)
  taken = trimmed
elseif taken < trimmed then
  redis.call('HINCRBY', g, 'missed', trimmed - taken)
  taken = trimmed
end
redis.call('HSET', g, 'taken', taken)

local picked = {}
local function set_aside(position)
  redis.call('HINCRBY', g, 'stale', 1)
  redis.call('ZREM', g .. ':unacked', position)
  redis.call('HDEL', g .. ':tries', position)
end

-- True if the pair was too stale, and has been dealt with.
local function offer(position, entry)
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  local lag = fields.version == '' and '' or newest - fields.version
  local stale = bound and lag ~= '' and lag > bound
  if stale and state[4] == 'drop' then
    set_aside(position)
    return true
  end
  local tries = redis.call('HGET', g .. ':tries', position) or 0
  picked[#picked + 1] = {position, entry[1], fields.pair, lag, stale and 1 or 0, tries + 1}
end

for _, position in ipairs(redis.call('ZRANGE', g .. ':again', 0, -1)) do
  if #picked == size then break end
  local entry = redis.call('XRANGE', key .. ':log', position, position)[1]
  if not entry then
    redis.call('HINCRBY', g, 'missed', 1)
    redis.call('ZREM', g .. ':unacked', position)
    redis.call('HDEL', g .. ':tries', position)
    redis.call('ZREM', g .. ':again', position)
  elseif offer(tonumber(position), entry) then
    redis.call('ZREM', g .. ':again', position)
  end
end

local scanned = taken
while #picked < size do
  local entries = redis.call('XRANGE', key .. ':log', scanned + 1, '+', 'COUNT', size - #picked)
  if #entries == 0 then break end
  for _, entry in ipairs(entries) do
    scanned = position_of(entry[1])
    if not redis.call('ZSCORE', g .. ':aside', scanned) and offer(scanned, entry) then
      redis.call('ZADD', g .. ':aside', scanned, scanned)
    end
  end
end

if #picked == 0 then  -- all that was there is set aside
  redis.call('HSET', g, 'taken', scanned)
  redis.call('ZREMRANGEBYSCORE', g .. ':aside', 0, scanned)
end
if #picked == 0 or #picked < need then
  local first = redis.call('ZRANGE', g .. ':leases', 0, 0, 'WITHSCORES')[2]
  return {'wait', first and math.max(1, first - time) or ''}
end

local held = {}
for i, pair in ipairs(picked) do
  held[i] = pair[1]
  if pair[4] ~= '' then
    redis.call('HINCRBY', g, 'lag', pair[4])
    redis.call('HINCRBY', g, 'aged', 1)
  end
  redis.call('ZADD', g .. ':unacked', pair[1], pair[1])
  redis.call('ZREM', g .. ':again', pair[1])
end
redis.call('HSET', g, 'taken', scanned)
redis.call('ZREMRANGEBYSCORE', g .. ':aside', 0, scanned)
redis.call('HSET', g .. ':held', lease, table.concat(held, ' '))
redis.call('ZADD', g .. ':leases', time + lease_ms, lease)
ring('run:' .. run)  -- who waits learns when this lease runs out
return {'lease', lease, time + lease_ms, state[1], picked}
"""
)

# What follows answers with the run's epoch, and 1 or 0.

ACK = Script(
    GROUPS
    + """
local run, group, lease = unpack(ARGV)
local key, g, time = run_key(run), group_key(run, group), now()
local epoch = redis.call('HGET', key, 'epoch')
local held = redis.call('HGET', g .. ':held', lease)
if not held then  -- perhaps this very call again: its reply was lost
  return {epoch, redis.call('ZSCORE', g .. ':acked', lease) and 1 or 0}
end
for position in string.gmatch(held, '%d+') do
  redis.call('ZREM', g .. ':unacked', position)
  redis.call('HDEL', g .. ':tries', position)
  redis.call('HINCRBY', g, 'acknowledged', 1)
end
redis.call('HDEL', g .. ':held', lease)
redis.call('ZREM', g .. ':leases', lease)
redis.call('ZREMRANGEBYSCORE', g .. ':acked', 0, time - 3600000)
redis.call('ZADD', g .. ':acked', time, lease)

-- The log is trimmed below what every group has acknowledged, but for what the run keeps.
local state = redis.call('HMGET', key, 'pairs', 'keep', 'trimmed')
local level = tonumber(state[1])
for _, name in ipairs(redis.call('SMEMBERS', key .. ':groups')) do
  local first = redis.call('ZRANGE', group_key(run, name) .. ':unacked', 0, 0)[1]
  level = math.min(level, first and first - 1 or
    tonumber(redis.call('HGET', group_key(run, name), 'taken')))
end
level = level - (state[2] or 0)
if level > position_of(state[3]) then cut(run, level) end
ring('run:' .. run)
return {epoch, 1}
"""
)

NACK = Script(
    GROUPS
    + HAND_BACK
    + """
local run, group, lease = unpack(ARGV)
local known = redis.call('HEXISTS', group_key(run, group) .. ':held', lease)
hand_back(run, group, lease)
if known == 1 then ring('run:' .. run) end
return {redis.call('HGET', run_key(run), 'epoch'), known}
"""
)

RENEW = Script(
    GROUPS
    + """
local run, group, lease, lease_ms = unpack(ARGV)
local epoch, expiry = redis.call('HGET', run_key(run), 'epoch'), now() + lease_ms
if redis.call('HEXISTS', group_key(run, group) .. ':held', lease) == 0 then return {epoch, 0} end
redis.call('ZADD', group_key(run, group) .. ':leases', expiry, lease)
return {epoch, expiry}
"""
)

HELD = Script(
    GROUPS
    + """
local held, run, group = {}, ARGV[1], ARGV[2]
for i = 3, #ARGV do
  if redis.call('HEXISTS', group_key(run, group) .. ':held', ARGV[i]) == 1 then
    held[#held + 1] = ARGV[i]
  end
end
return held
"""
)


FORGET = Script(
    GROUPS
    + """
local run, group = unpack(ARGV)
local known = forget(run, group)
ring('run:' .. run)
return known
"""
)


class Batches:
    def __init__(self, store: Store, bell: Bell) -> None:
        self._store = store
        self._bell = bell

    async def lease(self, run: str, request: LeaseRequest) -> Batch | None:
        """The oldest pairs that the group has not taken; what was handed back comes first.

        None: fewer than asked for came within `wait_s`. Raises: KeyError (no such run).
        """
        batch, next_s = await self._lease_now(run, request)
        if batch or request.wait_s <= 0:
            return batch
        end = time.monotonic() + request.wait_s
        async with self._bell.listen(f"run:{run}") as rung:
            while True:
                batch, next_s = await self._lease_now(run, request)
                left = end - time.monotonic()
                if batch or left <= 0:
                    return batch
                await ring_within(rung, min(left, next_s))

    async def _lease_now(self, run: str, request: LeaseRequest) -> tuple[Batch | None, float]:
        """A batch; or None, and the seconds until a lease of the group runs out."""
        outcome, *rest = await self._store.run(
            LEASE,
            run,
            request.group,
            request.size,
            request.min_size or request.size,
            self._lease_ms(request.lease_s),
            secrets.token_hex(8),
        )
        if outcome == "no run":
            raise KeyError(run)
        if outcome == "wait":
            return None, float("inf") if rest[0] == "" else float(rest[0]) / 1000
        lease, expiry, epoch, picked = rest
        batch = Batch(
            lease=lease,
            run=run,
            group=request.group,
            expires_at=moment(expiry),
            pairs=[Pair.model_validate_json(values[2]) for values in picked],
            deliveries=[_delivery(epoch, values) for values in picked],
        )
        return batch, 0.0

    async def ack(self, run: str, lease: str) -> None:
        """What the pairs taught is safe. Raises: LeaseLost, LogChanged."""
        await self._settle(ACK, run, lease)

    async def nack(self, run: str, lease: str) -> None:
        """Hands the pairs back, to be delivered again at once. Raises: LeaseLost, LogChanged."""
        await self._settle(NACK, run, lease)

    async def renew(self, run: str, lease: str, lease_s: float | None = None) -> float:
        """Extends a lease. Returns when it ends now, in ms since 1970. Raises: as `ack`."""
        return await self._settle(RENEW, run, lease, self._lease_ms(lease_s))

    async def forget(self, run: str, group: str) -> bool:
        """Deletes a group, which then no longer keeps the log from being trimmed. False: there is
        none. A subscriber that comes back begins anew, with the oldest pair that is kept."""
        return bool(await self._store.run(FORGET, run, group))

    async def held(self, run: str, group: str, leases: list[str]) -> list[str]:
        """Those of these leases that still stand."""
        return await self._store.run(HELD, run, group, *leases)

    async def released(self, run: str, group: str, leases: list[str], timeout_s: float) -> None:
        """Returns when one of these leases has ended, or after a while."""
        end = time.monotonic() + timeout_s
        async with self._bell.listen(f"run:{run}") as rung:
            while len(await self.held(run, group, leases)) == len(leases):
                if not await ring_within(rung, end - time.monotonic()):
                    return

    async def _settle(self, script: Script, run: str, lease: str, *args: int) -> int:
        made_in, _, rest = lease.partition("~")
        group = rest.rpartition("~")[0]
        epoch, done = await self._store.run(script, run, group, lease, *args)
        if epoch != made_in:
            why = "there is no such run (any more)" if epoch is None else "the run was made anew"
            raise LogChanged(run, lease, why)
        if not done:
            raise LeaseLost(run, lease)
        return done

    def _lease_ms(self, lease_s: float | None) -> int:
        return milliseconds(self._store.settings.batch_lease_s if lease_s is None else lease_s)


def _delivery(epoch: str, values: list[Any]) -> Delivery:
    _, place, _, lag, stale, count = values
    return Delivery(
        cursor=str(Cursor(epoch, place)),
        staleness=None if lag == "" else int(lag),
        stale=bool(stale),
        count=count,
    )
