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
redis.call('HSET', g, 'last_active', time)
redis.call('ZREMRANGEBYSCORE', g .. ':acked', 0, time - 3600000)
redis.call('ZADD', g .. ':acked', time, lease)
trim_log(run)
notify('run:' .. run)
return {epoch, 1}
