-- Takes a job out of its lane until its retry is due.
local function retry_later(id, delay_ms)
  remove_from_lane(id)
  redis.call('HSET', job_key(id), 'status', 'retrying')
  redis.call('ZADD', NS .. ':retries', now() + delay_ms, id)
  notify('job:' .. id)
end
