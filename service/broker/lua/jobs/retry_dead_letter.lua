-- ARGV: job_id, epoch, run_settings

local job, time = job_key(job_id), now()
if redis.call('HGET', job, 'status') ~= 'dead' then return end
redis.call('ZREM', NS .. ':dead', job_id)
redis.call('HSET', job, 'status', 'queued', 'released', redis.call('HGET', job, 'attempt'))
redis.call('HDEL', job, 'finished', 'deadline', 'unreadable_since')
redis.call('ZADD', NS .. ':open', time, job_id)
local state = redis.call('HMGET', job, 'run', 'priority', 'images')
if state[1] then
  make_run(state[1], epoch, run_settings)  -- it may have been deleted since
  redis.call('ZADD', run_key(state[1]) .. ':open', time, job_id)
end
if state[3] then touch_images(state[3]) end
add_to_lane(job_id, state[2])
notify('job:' .. job_id)
