local function group_key(run, group) return run_key(run) .. ':group:' .. group end
local function position_of(place) return tonumber(string.match(place or '0', '^%d+')) end

-- Deletes all that is known of a group.
local function delete_group(run, group)
  local parts = {'', ':unacked', ':again', ':aside', ':leases', ':held', ':tries', ':acked'}
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
