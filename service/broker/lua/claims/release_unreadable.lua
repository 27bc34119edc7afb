-- ARGV: job_id, fence, problem, delay_ms, give_up_ms
-- include: retry_later.lua

if not is_current(job_id, fence) then return 0 end
local job, time = job_key(job_id), now()
redis.call('HSETNX', job, 'unreadable_since', time)
if time - redis.call('HGET', job, 'unreadable_since') >= tonumber(give_up_ms) then
  record_error(job_id, problem)
  end_job(job_id, 'dead')
else
  -- No entry in the history each time: there may be thousands.
  redis.call('HSET', job, 'error', problem)
  redis.call('HINCRBY', job, 'released', 1)
  retry_later(job_id, delay_ms)
end
return 1
