-- ARGV: worker_id, info, ttl_ms
-- include: other_model.lua

local time = now()
local worker = cjson.decode(info)
local before = redis.call('GET', NS .. ':worker:' .. worker_id)
if not before then -- its first, or the first after a silence that removed it
  local other = other_model(worker)
  if other then return other end
end
if not before or cjson.decode(before).weight_version ~= worker.weight_version then
  notify('weights')
end
redis.call('ZADD', NS .. ':workers', time, worker_id)
redis.call('SET', NS .. ':worker:' .. worker_id, info, 'PX', ttl_ms)
redis.call('ZREMRANGEBYSCORE', NS .. ':workers', 0, time - ttl_ms)
