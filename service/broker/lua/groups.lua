-- include: group_key.lua

-- Deletes all that is known of a group.
local function delete_group(run, group)
  local parts = {'', ':unacked', ':again', ':aside', ':leases', ':held', ':calls', ':tries', ':acked'}
  for _, part in ipairs(parts) do
    redis.call('UNLINK', group_key(run, group) .. part)
  end
  return redis.call('SREM', run_key(run) .. ':groups', group)
end

-- Drops the log up to a position, that one included.
local function trim(run, position)
  local last = redis.call('XRANGE', run_key(run) .. ':log', position, position)[1]
  if not last then return end
  redis.call('XTRIM', run_key(run) .. ':log', 'MINID', position + 1)
  redis.call('HSET', run_key(run), 'trimmed', last[1])
end

-- A lease that its subscriber gave back is not given again, should a call with its token come late.
local function use_up(run, lease)
  local time = now()
  redis.call('ZREMRANGEBYSCORE', run_key(run) .. ':used_up', 0, time - 3600000)
  redis.call('ZREMRANGEBYRANK', run_key(run) .. ':used_up', 0, -10000)  -- 10,000 at most
  redis.call('ZADD', run_key(run) .. ':used_up', time, lease)
end

local function is_used_up(run, lease)
  return redis.call('ZSCORE', run_key(run) .. ':used_up', lease) and true or false
end

-- Forgets a lease. What it held is the caller's to deal with.
local function end_lease(group, lease)
  redis.call('ZREM', group .. ':leases', lease)
  redis.call('HDEL', group .. ':held', lease)
  redis.call('HDEL', group .. ':calls', lease)
end

-- Up to where a group has acknowledged or set aside all pairs.
local function done_up_to(run, group)
  local first = redis.call('ZRANGE', group_key(run, group) .. ':unacked', 0, 0)[1]
  return first and first - 1 or tonumber(redis.call('HGET', group_key(run, group), 'taken') or 0)
end

-- True if nothing was heard of a group for this long, and it holds no lease.
local function is_idle(run, group, ttl_ms)
  local g, time = group_key(run, group), now()
  redis.call('HSETNX', g, 'last_active', time)  -- a group of an older release
  return time - redis.call('HGET', g, 'last_active') > ttl_ms
    and redis.call('ZCOUNT', g .. ':leases', time, '+inf') == 0
end

-- Trims the log below what the gating group, and every other that is not idle, has acknowledged or
-- set aside, but for what the run keeps. Without a gating group, it keeps no more than that.
local function trim_log(run)
  local state = redis.call('HMGET', run_key(run), 'pairs', 'keep', 'trimmed', 'group_ttl_s',
    'gating_group')
  local gating, level = state[5] or DEFAULT_GATING_GROUP, tonumber(state[1])
  if gating ~= '' then
    local ttl_ms = state[4] == '' and math.huge or (tonumber(state[4] or '') or 86400) * 1000
    level = done_up_to(run, gating)
    for _, group in ipairs(redis.call('SMEMBERS', run_key(run) .. ':groups')) do
      if group ~= gating and not is_idle(run, group, ttl_ms) then
        level = math.min(level, done_up_to(run, group))
      end
    end
  end
  level = level - (state[2] or 0)
  if level > position_of(state[3]) then trim(run, level) end
end
