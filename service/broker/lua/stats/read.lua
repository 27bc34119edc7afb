-- include: count_waiting.lua
-- include: lanes.lua

-- Milliseconds since the first job that no worker has taken entered the lane; 0: none.
local function wait_of(lane)
  local from, groups = '-', redis.pcall('XINFO', 'GROUPS', lane_key(lane))
  for _, info in ipairs(groups.err and {} or groups) do
    for i = 1, #info, 2 do
      if info[i] == 'last-delivered-id' then from = '(' .. info[i + 1] end
    end
  end
  local entry = redis.call('XRANGE', lane_key(lane), from, '+', 'COUNT', 1)[1]
  return entry and math.max(0, now() - string.match(entry[1], '^%d+')) or 0
end

local queued, running = {}, 0
for _, lane in ipairs(all_lanes()) do
  local length, pending = redis.call('XLEN', lane_key(lane)), 0
  local reply = redis.pcall('XPENDING', lane_key(lane), GROUP)
  if not reply.err then pending = reply[1] end
  queued[#queued + 1] = {string.match(lane, '^%a+'), length - pending, wait_of(lane)}
  running = running + pending
end
local runs, groups = {}, {}
for _, run in ipairs(redis.call('SMEMBERS', NS .. ':runs')) do
  runs[#runs + 1] = {run, redis.call('ZCARD', run_key(run) .. ':open'),
    redis.call('HGETALL', run_key(run))}
  for _, group in ipairs(redis.call('SMEMBERS', run_key(run) .. ':groups')) do
    local state = redis.call('HMGET', group_key(run, group), 'acknowledged', 'stale', 'lag', 'aged')
    groups[#groups + 1] = {run, group, count_waiting(run, group), state[1] or 0, state[2] or 0,
      state[3] or 0, state[4] or 0}
  end
end
return {queued, running, redis.call('ZCARD', NS .. ':retries'), redis.call('ZCARD', NS .. ':dead'),
  redis.call('HGETALL', NS .. ':stats'), runs, groups}
