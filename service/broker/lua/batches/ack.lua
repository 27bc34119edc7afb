-- ARGV: run, group, lease
-- include: groups.lua

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
end_lease(g, lease)
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
if level > position_of(state[3]) then trim(run, level) end
notify('run:' .. run)
return {epoch, 1}
