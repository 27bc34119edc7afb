-- include: count_waiting.lua

-- The answer to who wants a place in a queue that is full; nil: it has room.
local function full_queue()
  local depth = redis.call('ZCARD', NS .. ':open')
  if depth >= MAX_DEPTH then return {'full', depth} end
end

-- The answer to who wants a place in a window that is full; nil: it has room, or nobody has made the
-- run yet.
local function full_window(run)
  local state = redis.call('HMGET', run_key(run), 'window', 'gating_group')
  local window, gating = tonumber(state[1] or ''), state[2] or DEFAULT_GATING_GROUP
  if not window then return end
  local used = redis.call('ZCARD', run_key(run) .. ':open')
  if gating ~= '' then used = used + count_waiting(run, gating) end
  if used >= window then return {'window', used, window, gating} end
end
