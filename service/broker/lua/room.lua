-- include: count_waiting.lua

-- The answer to who wants a place in a queue that is full; nil: it has room.
local function full_queue()
  local depth = redis.call('ZCARD', NS .. ':open')
  if depth >= MAX_DEPTH then return {'full', depth} end
end

-- The answer to who wants a place in a window that is full; nil: it has room, or nobody has made the
-- run yet.
local function full_window(run)
  local window = tonumber(redis.call('HGET', run_key(run), 'window') or '')
  if not window then return end
  local gating, used = gating_group(run), redis.call('ZCARD', run_key(run) .. ':open')
  if gating ~= '' then used = used + count_waiting(run, gating) end
  if used >= window then return {'window', used, window, gating} end
end
