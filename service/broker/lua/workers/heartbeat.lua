-- ARGV: worker_id, info, ttl_ms

local time = now()
local before = redis.call('GET', NS .. ':worker:' .. worker_id)
if not before or
    cjson.decode(before).weight_version ~= cjson.decode(info).weight_version then
  notify('weights')
end
redis.call('ZADD', NS .. ':workers', time, worker_id)
redis.call('SET', NS .. ':worker:' .. worker_id, info, 'PX', ttl_ms)
redis.call('ZREMRANGEBYSCORE', NS .. ':workers', 0, time - ttl_ms)
