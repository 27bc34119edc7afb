-- ARGV: job_id, fence, result, outcome, epoch, run_settings, pair_fields...
-- include: offer_pair.lua

if not is_current(job_id, fence) then
  -- True for this very call again (its reply was lost), false for a late finisher.
  local state = redis.call('HMGET', job_key(job_id), 'status', 'attempt')
  return state[1] == 'succeeded' and state[2] == fence and 1 or 0
end
local run = redis.call('HGET', job_key(job_id), 'run')
if run and outcome ~= '' then
  make_run(run, epoch, run_settings)
  local left_out, appended = {}, false
  for i = 1, #pair_fields, 5 do  -- JSON, images it names, its oldest version, its nonce, its figures
    outcome = offer_pair(run, unpack(pair_fields, i, i + 4))
    if outcome == 'pair' then appended = true else left_out[#left_out + 1] = (i - 1) / 5 end
  end
  if appended then outcome = 'pair' end
  if #left_out > 0 then
    redis.call('HSET', job_key(job_id), 'left_out', table.concat(left_out, ' '))
  end
  count_outcome(run, outcome)
end
redis.call('HSET', job_key(job_id), 'result', result, 'outcome', outcome)
redis.call('HDEL', job_key(job_id), 'error')
end_job(job_id, 'succeeded', #result)
return 1
