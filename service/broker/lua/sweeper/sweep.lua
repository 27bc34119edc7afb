-- ARGV: interval_ms
-- include: promote_retries.lua
-- include: deadlines.lua
-- include: lanes.lua

-- One sweeper at a time: the others find that it was done a moment ago.
if not redis.call('SET', NS .. ':swept', 1, 'NX', 'PX', interval_ms) then return 0 end
local more = promote_retries()
local time = now()
local late = redis.call('ZRANGEBYSCORE', NS .. ':deadlines', 0, time, 'LIMIT', 0, 100)
for _, id in ipairs(late) do miss_deadline(id) end
more = more or #late == 100

local function expire(id, lane, entry)
  local state = redis.call('HMGET', job_key(id), 'status', 'entry', 'attempt', 'released', 'owner')
  if state[2] ~= entry or state[1] ~= 'running' then
    redis.call('XACK', lane_key(lane), GROUP, entry)
    if state[2] ~= entry then
      redis.call('XDEL', lane_key(lane), entry)
    else  -- read, but not started: back into the lane
      remove_from_lane(id)
      add_to_lane(id, redis.call('HGET', job_key(id), 'priority') .. ':again')
    end
    return
  end
  record_error(id, error_json('worker_lost',
    'Worker ' .. state[5] .. ' stopped renewing its lease while it ran attempt ' .. state[3] .. '.',
    {worker = state[5], attempt = tonumber(state[3])}))
  redis.call('HINCRBY', NS .. ':stats', 'leases_lost', 1)
  notify('lost')
  redis.call('HDEL', job_key(id), 'unreadable_since')
  if state[3] - (state[4] or 0) >= MAX_ATTEMPTS then
    end_job(id, 'dead')
  else
    remove_from_lane(id)
    redis.call('HSET', job_key(id), 'status', 'queued')
    add_to_lane(id, redis.call('HGET', job_key(id), 'priority') .. ':again')
    notify('job:' .. id)
  end
end

for _, lane in ipairs(all_lanes()) do
  local cursor = redis.call('HGET', NS .. ':cursors', lane) or '0-0'
  local reply = redis.pcall('XAUTOCLAIM', lane_key(lane), GROUP, CONSUMER, LEASE_MS, cursor,
    'COUNT', 100)
  if not reply.err then
    redis.call('HSET', NS .. ':cursors', lane, reply[1])
    more = more or reply[1] ~= '0-0'
    for _, entry in ipairs(reply[2]) do
      if entry and entry[2] then expire(entry[2][2], lane, entry[1]) end
    end
  end
end

-- Retention: by age, by number, and by bytes.
redis.call('ZREMRANGEBYSCORE', NS .. ':ended', 0, time - RESULT_TTL_MS)
for _, name in ipairs({'ended', 'dead'}) do
  local set, removed = NS .. ':' .. name, 0
  local bytes = tonumber(redis.call('HGET', NS .. ':stats', name .. '_bytes') or 0)
  while removed < 1000 do
    local oldest = redis.call('ZRANGE', set, 0, 0)[1]
    if not oldest then break end
    local behind = bytes - (redis.call('HGET', job_key(oldest), 'end_byte') or 0)
    if behind < MAX_ENDED_BYTES and redis.call('ZCARD', set) <= MAX_ENDED then break end
    redis.call('ZREM', set, oldest)
    redis.call('UNLINK', job_key(oldest), job_key(oldest) .. ':events')
    removed = removed + 1
  end
  more = more or removed == 1000
end
-- Some at a time, so that nobody waits for all; the rest at once.
if more then redis.call('DEL', NS .. ':swept') end
return more and 1 or 0
