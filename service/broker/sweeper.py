"""What time brings about: due retries, missed deadlines, expired leases, the end of retention."""

import time

from service.broker.store import Script, Store, milliseconds

PROMOTE = """
-- Puts jobs whose retry is due back into their lanes.
local function promote()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', NS .. ':retries', 0, now(), 'LIMIT', 0, 100)) do
    redis.call('ZREM', NS .. ':retries', id)
    redis.call('HSET', job_key(id), 'status', 'queued')
    enter(id, redis.call('HGET', job_key(id), 'priority') .. ':again')
  end
end

local function error_json(code, message, details)
  return cjson.encode({code = code, message = message, details = details})
end

local function miss_deadline(id)
  remember(id, error_json('deadline_exceeded', 'The deadline that the request set has passed.',
    {attempt = tonumber(redis.call('HGET', job_key(id), 'attempt'))}))
  conclude(id, 'failed')
  ring('lost')
end
"""

SWEEP = Script(
    PROMOTE
    + """
-- One sweeper at a time: the others find that it was done a moment ago.
if not redis.call('SET', NS .. ':swept', 1, 'NX', 'PX', ARGV[1]) then return end
promote()
local time = now()
for _, id in ipairs(redis.call('ZRANGEBYSCORE', NS .. ':deadlines', 0, time, 'LIMIT', 0, 100)) do
  miss_deadline(id)
end

local function expire(id, lane, entry)
  local state = redis.call('HMGET', job_key(id), 'status', 'entry', 'attempt', 'released', 'owner')
  if state[2] ~= entry or state[1] ~= 'running' then
    redis.call('XACK', lane_key(lane), GROUP, entry)
    if state[2] ~= entry then
      redis.call('XDEL', lane_key(lane), entry)
    else  -- read, but not started: back into the lane
      leave(id)
      enter(id, redis.call('HGET', job_key(id), 'priority') .. ':again')
    end
    return
  end
  remember(id, error_json('worker_lost',
    'Worker ' .. state[5] .. ' stopped renewing its lease while it ran attempt ' .. state[3] .. '.',
    {worker = state[5], attempt = tonumber(state[3])}))
  redis.call('HINCRBY', NS .. ':stats', 'leases_lost', 1)
  ring('lost')
  if state[3] - (state[4] or 0) >= MAX_ATTEMPTS then
    conclude(id, 'dead')
  else
    leave(id)
    redis.call('HSET', job_key(id), 'status', 'queued')
    enter(id, redis.call('HGET', job_key(id), 'priority') .. ':again')
    ring('job:' .. id)
  end
end

for _, lane in ipairs(LANES) do
  local cursor = redis.call('HGET', NS .. ':cursors', lane) or '0-0'
  local reply = redis.pcall('XAUTOCLAIM', lane_key(lane), GROUP, CONSUMER, LEASE_MS, cursor,
    'COUNT', 100)
  if not reply.err then
    redis.call('HSET', NS .. ':cursors', lane, reply[1])
    for _, entry in ipairs(reply[2]) do
      if entry and entry[2] then expire(entry[2][2], lane, entry[1]) end
    end
  end
end

-- Retention: by age, and by number.
redis.call('ZREMRANGEBYSCORE', NS .. ':ended', 0, time - RESULT_TTL_MS)
for _, set in ipairs({'ended', 'dead'}) do
  local excess = math.min(1000, redis.call('ZCARD', NS .. ':' .. set) - MAX_ENDED)
  if excess > 0 then
    for i, id in ipairs(redis.call('ZPOPMIN', NS .. ':' .. set, excess)) do
      if i % 2 == 1 then redis.call('UNLINK', job_key(id), job_key(id) .. ':events') end
    end
  end
end
"""
)


class Upkeep:
    """The part of `Jobs` that every process with a broker does now and then."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._swept_at = float("-inf")

    async def sweep(self) -> None:
        """Expired leases, missed deadlines, due retries, retention. Cheap to call often."""
        now = time.monotonic()
        if now - self._swept_at < self._sweep_every_s:
            return
        self._swept_at = now
        await self._store.run(SWEEP, milliseconds(self._sweep_every_s * 0.9))

    @property
    def _sweep_every_s(self) -> float:
        return min(1.0, self._store.settings.lease_s / 4)
