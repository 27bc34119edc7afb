-- ARGV: worker, limit, kinds...
-- include: promote_retries.lua
-- include: deadlines.lua
-- include: lanes.lua

local MAX_MOVES = 1000  -- in one call: a longer one would hold the server up
limit = tonumber(limit)
promote_retries()
local time = now()
local claims, moves = {}, 0

local known, met = {}, {}
for _, kind in ipairs(kinds) do
  known[kind] = true
  if redis.call('SISMEMBER', NS .. ':kinds', kind) == 1 then met[#met + 1] = kind end
end

-- Into a lane that only workers which know its kind read. At the end of its own lane, it would wake
-- idle workers that do not, again and again.
local function move_to_lane_of_kind(id, kind)
  local priority = redis.call('HGET', job_key(id), 'priority')
  remove_from_lane(id)
  redis.call('SADD', NS .. ':kinds', kind)
  add_to_lane(id, priority .. ':kind:' .. kind)
  moves = moves + 1
end

local function start(id, lane, entry)
  local job = job_key(id)
  local state = redis.call('HMGET', job, 'status', 'entry', 'deadline', 'kind')
  if state[2] ~= entry then  -- what is left of a job that ended or moved
    redis.call('XACK', lane_key(lane), GROUP, entry)
    redis.call('XDEL', lane_key(lane), entry)
  elseif state[1] == 'running' then
    -- The group was lost and reads its lanes anew. Who runs this job renews it, or it expires.
  elseif state[3] and tonumber(state[3]) <= time then
    miss_deadline(id)
  elseif not known[state[4]] then
    move_to_lane_of_kind(id, state[4])
  else
    local attempt = redis.call('HINCRBY', job, 'attempt', 1)
    redis.call('HSET', job, 'status', 'running', 'owner', worker, 'started', time)
    local rest = redis.call('HMGET', job, 'request', 'images', 'history', 'run', 'trace')
    if rest[2] then touch_images(rest[2]) end
    if rest[4] then redis.call('SADD', run_key(rest[4]) .. ':running', id) end
    notify('step:' .. id)
    claims[#claims + 1] = {id, state[4], rest[1], attempt, state[3] or '', rest[3] or '',
      rest[5] or ''}
  end
end

local function read(lane)
  local command = {'XREADGROUP', 'GROUP', GROUP, CONSUMER, 'COUNT', limit - #claims,
    'STREAMS', lane_key(lane), '>'}
  local reply = redis.pcall(unpack(command))
  if reply and reply.err then
    if string.find(reply.err, 'NOGROUP') then
      redis.call('XGROUP', 'CREATE', lane_key(lane), GROUP, 0, 'MKSTREAM')
    end
    reply = redis.call(unpack(command))  -- where any other error comes up as it is
  end
  return reply and reply[1][2] or {}
end

for _, lane in ipairs(lanes_with(met)) do
  while #claims < limit and moves < MAX_MOVES do
    local entries = read(lane)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do start(entry[2][2], lane, entry[1]) end
  end
end

-- With nothing to do, the caller waits for what comes into these lanes after these entries.
local lanes, last_ids, due = {}, {}, ''
if #claims == 0 and moves < MAX_MOVES then
  for i, lane in ipairs(lanes_with(kinds)) do
    lanes[i], last_ids[i] = lane_key(lane), '0-0'
    local info = redis.pcall('XINFO', 'STREAM', lane_key(lane))
    for j = 1, #info, 2 do
      if info[j] == 'last-generated-id' then last_ids[i] = info[j + 1] end
    end
  end
  local first = redis.call('ZRANGE', NS .. ':retries', 0, 0, 'WITHSCORES')
  if first[2] then due = math.max(0, first[2] - time) end
end
return {claims, lanes, last_ids, due}
