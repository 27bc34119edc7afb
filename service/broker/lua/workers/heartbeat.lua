-- ARGV: worker_id, info, ttl_ms
-- include: other_model.lua
-- include: served.lua

local time = now()
local worker = cjson.decode(info)
local text = redis.call('GET', NS .. ':worker:' .. worker_id)
local before = text and cjson.decode(text)
if not before then -- its first, or the first after a silence that removed it
  local other = other_model(worker)
  if other then return other end
end
redis.call('ZADD', NS .. ':workers', time, worker_id)
redis.call('SET', NS .. ':worker:' .. worker_id, info, 'PX', ttl_ms)
redis.call('ZREMRANGEBYSCORE', NS .. ':workers', 0, time - ttl_ms)
if not before or before.weight_version ~= worker.weight_version
  or before.engine_ready ~= worker.engine_ready then
  notify('weights')
  find_served()
end
