-- ARGV: job_id, fence, result, unpaired, epoch, run_settings, pair_fields...
-- include: append_pair.lua

if not is_current(job_id, fence) then
  -- True for this very call again (its reply was lost), false for a late finisher.
  local state = redis.call('HMGET', job_key(job_id), 'status', 'attempt')
  return state[1] == 'succeeded' and state[2] == fence and 1 or 0
end
local run = redis.call('HGET', job_key(job_id), 'run')
if run and #pair_fields > 0 then
  make_run(run, epoch, run_settings)
  for i = 1, #pair_fields, 4 do  -- its JSON, the images it names, its oldest version, its nonce
    append_pair(run, pair_fields[i], pair_fields[i + 1], pair_fields[i + 2], pair_fields[i + 3])
  end
elseif run and unpaired ~= '' then
  make_run(run, epoch, run_settings)
  redis.call('HINCRBY', run_key(run), unpaired, 1)
end
redis.call('HSET', job_key(job_id), 'result', result)
redis.call('HDEL', job_key(job_id), 'error')
end_job(job_id, 'succeeded')
return 1
