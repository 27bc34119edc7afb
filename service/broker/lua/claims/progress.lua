-- ARGV: job_id, fence, event, limit

if not is_current(job_id, fence) then return end
redis.call('XADD', job_key(job_id) .. ':events', 'MAXLEN', '~', limit, '*', 'event', event)
notify('step:' .. job_id)
