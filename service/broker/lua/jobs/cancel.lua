-- ARGV: job_id

local status = redis.call('HGET', job_key(job_id), 'status')
if status == 'queued' or status == 'retrying' or status == 'running' then
  end_job(job_id, 'cancelled')
  if status == 'running' then notify('lost') end
end
