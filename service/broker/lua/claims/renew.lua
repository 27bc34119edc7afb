-- ARGV: claims...

local lost = {}
for i = 1, #claims, 2 do
  local id, fence = claims[i], claims[i + 1]
  if is_current(id, fence) then
    local place = redis.call('HMGET', job_key(id), 'lane', 'entry')
    local command = {'XCLAIM', lane_key(place[1]), GROUP, CONSUMER, 0, place[2], 'FORCE', 'JUSTID'}
    local reply = redis.pcall(unpack(command))
    if reply.err then  -- the group was lost; FORCE puts the lease into a new one
      redis.call('XGROUP', 'CREATE', lane_key(place[1]), GROUP, 0, 'MKSTREAM')
      redis.call(unpack(command))
    end
  else
    -- Not lost is what this very attempt has just finished.
    local state = redis.call('HMGET', job_key(id), 'status', 'attempt')
    if state[1] ~= 'succeeded' or state[2] ~= fence then lost[#lost + 1] = id end
  end
end
return lost
