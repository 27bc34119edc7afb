-- ARGV: run, group, size, min_size, lease_ms, token
-- include: return_lease.lua

local key, g, time = run_key(run), group_key(run, group), now()
local state = redis.call('HMGET', key, 'epoch', 'window', 'max_staleness', 'stale', 'trimmed')
if not state[1] then return {'no run'} end
size = tonumber(size)
local need = math.min(tonumber(min_size), tonumber(state[2]))
local newest = tonumber(redis.call('HGET', NS .. ':weights', 'newest') or 0)
local bound = tonumber(state[3] or '')

for _, ended in ipairs(redis.call('ZRANGEBYSCORE', g .. ':leases', 0, time)) do
  return_lease(run, group, ended)
end
local lease = state[1] .. '~' .. group .. '~' .. token
return_lease(run, group, lease)  -- this very call again: what the lost reply held comes first

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
notify('run:' .. run)  -- who waits learns when this lease runs out
return {'lease', lease, time + lease_ms, state[1], picked}
