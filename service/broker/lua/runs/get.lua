-- ARGV: run
-- include: count_waiting.lua
-- include: count_leased.lua

local key = run_key(run)
if redis.call('EXISTS', key) == 0 then return false end
local groups = {}
for _, group in ipairs(redis.call('SMEMBERS', key .. ':groups')) do
  local g = group_key(run, group)
  local leased = count_leased(run, group)
  local returned = redis.call('ZCARD', g .. ':unacked') - leased
  groups[#groups + 1] = {group, count_waiting(run, group), leased, returned,
    redis.call('HMGET', g, 'acknowledged', 'stale', 'missed', 'redelivered',
      'last_active')}
end
local oldest = redis.call('ZRANGE', key .. ':open', 0, 0, 'WITHSCORES')[2] or ''
return {redis.call('HGETALL', key), redis.call('HGETALL', key .. ':figures'), redis.call('ZCARD', key .. ':open'),
  redis.call('SCARD', key .. ':running'), oldest, groups}
