-- Puts jobs whose retry is due back into their lanes.
local function promote_retries()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', NS .. ':retries', 0, now(), 'LIMIT', 0, 100)) do
    redis.call('ZREM', NS .. ':retries', id)
    redis.call('HSET', job_key(id), 'status', 'queued')
    add_to_lane(id, redis.call('HGET', job_key(id), 'priority') .. ':again')
  end
end
