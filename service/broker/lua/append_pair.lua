-- include: groups.lua

local function append_pair(run, pair, images, version, nonce)
  local position = redis.call('HINCRBY', run_key(run), 'pairs', 1)
  local place = position .. '-' .. nonce
  redis.call('XADD', run_key(run) .. ':log', place, 'pair', pair, 'images', images,
    'version', version)
  redis.call('HSET', run_key(run), 'last', place)
  local state = redis.call('HMGET', run_key(run), 'retention', 'trimmed', 'gating_group', 'keep')
  local most = tonumber(state[1] or '') or math.huge
  if state[3] == '' then most = math.min(most, tonumber(state[4])) end
  if position - most > position_of(state[2]) then trim(run, position - most) end
  touch_images(images)
  notify('run:' .. run)
end
