-- ARGV: job_id, kind, request, run, priority, deadline_ms, metadata, images, key, fingerprint
-- ARGV: trace, epoch, run_settings
-- include: room.lua
-- include: known_job.lua

if redis.call('EXISTS', job_key(job_id)) == 1 then  -- this very call again: its reply was lost
  return {'new', redis.call('HGET', job_key(job_id), 'created')}
end
if key ~= '' then
  local first, body, kept = known_job(key)
  if first then
    return {body ~= fingerprint and 'conflict' or kept and 'known' or 'gone', first}
  end
end
local full = full_queue()
if not full and run ~= '' then
  make_run(run, epoch, run_settings)
  full = full_window(run)
end
if full then return full end
for ref in string.gmatch(images, '%S+') do
  if not redis.call('ZSCORE', NS .. ':images', ref) then return {'image', ref} end
end
touch_images(images)

local time = now()
redis.call('HSET', job_key(job_id), 'kind', kind, 'request', request, 'status', 'queued',
  'priority', priority, 'attempt', 0, 'created', time,
  'bytes', 512 + #request + #metadata)  -- 512: the hash, and what is small
if images ~= '' then redis.call('HSET', job_key(job_id), 'images', images) end
if metadata ~= '' then redis.call('HSET', job_key(job_id), 'metadata', metadata) end
if trace ~= '' then redis.call('HSET', job_key(job_id), 'trace', trace) end
if run ~= '' then
  redis.call('HSET', job_key(job_id), 'run', run)
  redis.call('ZADD', run_key(run) .. ':open', time, job_id)
end
if deadline_ms ~= '' then
  redis.call('HSET', job_key(job_id), 'deadline', time + deadline_ms)
  redis.call('ZADD', NS .. ':deadlines', time + deadline_ms, job_id)
end
if key ~= '' then
  local stored = NS .. ':key:' .. key
  local epoch_now = run ~= '' and redis.call('HGET', run_key(run), 'epoch') or ''
  redis.call('HSET', stored, 'job', job_id, 'fingerprint', fingerprint, 'run', run,
    'epoch', epoch_now)
  redis.call('PEXPIRE', stored, IDEMPOTENCY_TTL_MS)
end
redis.call('ZADD', NS .. ':open', time, job_id)
add_to_lane(job_id, priority)
return {'new', time}
