-- What an idempotency key stands for: a job's id, the fingerprint of its body, and whether its record
-- is kept. Nil: nothing, or a job whose run was deleted since.
local function known_job(key)
  local stored = redis.call('HMGET', NS .. ':key:' .. key, 'job', 'fingerprint', 'run', 'epoch')
  if not stored[1] then return end
  local run = stored[3] or ''  -- nil: of an older release
  if run ~= '' and redis.call('HGET', run_key(run), 'epoch') ~= stored[4] then return end
  return stored[1], stored[2], redis.call('EXISTS', job_key(stored[1])) == 1
end
