-- ARGV: job_id, fence, problem, delay_ms, give_up
-- include: retry_later.lua

if not is_current(job_id, fence) then return 0 end
record_error(job_id, problem)
redis.call('HDEL', job_key(job_id), 'unreadable_since')
local tries = fence - (redis.call('HGET', job_key(job_id), 'released') or 0)
if give_up == '1' or tries >= MAX_ATTEMPTS then
  end_job(job_id, 'dead')
else
  retry_later(job_id, delay_ms)
end
return 1
