-- Puts jobs whose retry is due back into their lanes. True: there may be more of them.
local function promote_retries()
  local due = redis.call('ZRANGEBYSCORE', NS .. ':retries', 0, now(), 'LIMIT', 0, 100)
  for _, id in ipairs(due) do
    redis.call('ZREM', NS .. ':retries', id)
    redis.call('HSET', job_key(id), 'status', 'queued')
    add_to_lane(id, redis.call('HGET', job_key(id), 'priority') .. ':again')
  end
  return #due == 100
end
