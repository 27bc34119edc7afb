-- ARGV: job_id, fence

if not is_current(job_id, fence) then return 0 end
remove_from_lane(job_id)
redis.call('HINCRBY', job_key(job_id), 'released', 1)
redis.call('HDEL', job_key(job_id), 'unreadable_since')
redis.call('HSET', job_key(job_id), 'status', 'queued')
add_to_lane(job_id, redis.call('HGET', job_key(job_id), 'priority') .. ':again')
notify('job:' .. job_id)
return 1
