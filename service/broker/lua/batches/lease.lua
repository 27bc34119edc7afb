-- ARGV: run, group, size, min_size, lease_ms, token, call, asked_at
-- include: return_lease.lua
-- include: served.lua

local key, g, time = run_key(run), group_key(run, group), now()
local log = key .. ':log'
local state = redis.call('HMGET', key, 'epoch', 'window', 'max_staleness', 'stale', 'trimmed', 'pairs')
if not state[1] then return {'no run'} end
size = tonumber(size)
asked_at = tonumber(asked_at) or time  -- a call's first look
local need = math.min(tonumber(min_size), tonumber(state[2]))
local served = served_version()
local bound = tonumber(state[3] or '')
local lease = state[1] .. '~' .. group .. '~' .. token
if is_used_up(run, lease) or redis.call('ZSCORE', g .. ':acked', lease) then
  return {'used up', lease}
end

-- What of a pair a batch says, and whether it is too stale to be delivered.
local function offered(position, entry)
  local fields = {}
  for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  local lag = fields.version == '' and '' or math.max(0, served - fields.version)
  local stale = bound and lag ~= '' and lag > bound
  local tries = redis.call('HGET', g .. ':tries', position) or 0
  return {position, entry[1], fields.pair, lag, stale and 1 or 0, tries + 1},
    stale and state[4] == 'drop'
end

local let_go = false
local function forget(position, counter)
  let_go = true
  redis.call('HINCRBY', g, counter, 1)
  redis.call('ZREM', g .. ':unacked', position)
  redis.call('HDEL', g .. ':tries', position)
end

local function deliver(picked)
  local held = {}
  for i, pair in ipairs(picked) do held[i] = pair[1] end
  redis.call('HSET', g .. ':held', lease, table.concat(held, ' '))
  redis.call('HSET', g .. ':calls', lease, string.format('%d %s', asked_at, call))
  redis.call('ZADD', g .. ':leases', time + lease_ms, lease)
  notify('run:' .. run)  -- who waits learns when this lease runs out
  return {'lease', lease, time + lease_ms, state[1], picked}
end

local picked = {}
local held = redis.call('HGET', g .. ':held', lease)
if held then  -- asked for again: the same batch, but for what retention has trimmed
  local holder = redis.call('HGET', g .. ':calls', lease)
  if holder and tonumber(string.match(holder, '^%d+')) > asked_at then  -- its caller repeated it
    return {'wait', '', asked_at}
  end
  for position in string.gmatch(held, '%d+') do
    local entry = redis.call('XRANGE', log, position, position)[1]
    if entry then
      picked[#picked + 1] = offered(tonumber(position), entry)
    else
      forget(position, 'missed')
    end
  end
  if #picked > 0 then return deliver(picked) end
  end_lease(g, lease)
end
for _, ended in ipairs(redis.call('ZRANGEBYSCORE', g .. ':leases', 0, time)) do
  return_lease(run, group, ended)
end

-- A new group begins with the oldest pair that is kept. One that retention overtook misses some.
local taken, trimmed = tonumber(redis.call('HGET', g, 'taken')), position_of(state[5])
if not taken then
  redis.call('SADD', key .. ':groups', group)
  taken = trimmed
elseif taken < trimmed then
  redis.call('HINCRBY', g, 'missed', trimmed - taken)
  taken = trimmed
end
redis.call('HSET', g, 'taken', taken, 'last_active', time)

local function wait()
  local first = redis.call('ZRANGE', g .. ':leases', 0, 0, 'WITHSCORES')[2]
  return {'wait', first and math.max(1, first - time) or '', asked_at}
end

-- New pairs from a position on, as many as are missing, are handed to `take`; those that are too
-- stale are set aside. Returns the last position that was looked at.
local function scan(from, missing, take)
  while missing > 0 do
    local entries = redis.call('XRANGE', log, from + 1, '+', 'COUNT', missing)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      from = position_of(entry[1])
      if not redis.call('ZSCORE', g .. ':aside', from) then
        local pair, dropped = offered(from, entry)
        if dropped then
          forget(from, 'stale')
          redis.call('ZADD', g .. ':aside', from, from)
        else
          take(pair)
          missing = missing - 1
        end
      end
    end
  end
  return from
end

-- Who waits looks at every new pair, and reads none before there can be enough of them; unless what an
-- earlier look has seen may have gone stale since, which makes room in the window.
local freshness = served .. ' ' .. (state[3] or '') .. ' ' .. state[4]
local there = redis.call('ZCARD', g .. ':again') + state[6] - taken -
  redis.call('ZCOUNT', g .. ':aside', taken + 1, '+inf')
if there < need and (not bound or redis.call('HGET', g, 'freshness') == freshness) then return wait() end

for _, position in ipairs(redis.call('ZRANGE', g .. ':again', 0, -1)) do
  if #picked == size then break end
  local entry = redis.call('XRANGE', log, position, position)[1]
  local pair, dropped
  if entry then pair, dropped = offered(tonumber(position), entry) end
  if pair and not dropped then
    picked[#picked + 1] = pair
  else
    forget(position, pair and 'stale' or 'missed')
    redis.call('ZREM', g .. ':again', position)
  end
end
local scanned = scan(taken, size - #picked, function(pair) picked[#picked + 1] = pair end)

if #picked == 0 then  -- all that was there is set aside
  redis.call('HSET', g, 'taken', scanned)
  redis.call('ZREMRANGEBYSCORE', g .. ':aside', 0, scanned)
end
if let_go then trim_log(run) end
if #picked == 0 or #picked < need then
  redis.call('HSET', g, 'freshness', freshness)
  return wait()
end

for _, pair in ipairs(picked) do
  if pair[4] ~= '' then
    redis.call('HINCRBY', g, 'lag', pair[4])
    redis.call('HINCRBY', g, 'aged', 1)
  end
  redis.call('ZADD', g .. ':unacked', pair[1], pair[1])
  redis.call('ZREM', g .. ':again', pair[1])
end
redis.call('HSET', g, 'taken', scanned)
redis.call('ZREMRANGEBYSCORE', g .. ':aside', 0, scanned)
return deliver(picked)
