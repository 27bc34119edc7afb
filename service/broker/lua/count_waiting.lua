-- include: group_key.lua

-- Pairs that a group has neither taken nor set aside.
local function count_waiting(run, group)
  local state = redis.call('HMGET', run_key(run), 'pairs', 'trimmed')
  local key = group_key(run, group)
  local taken = math.max(redis.call('HGET', key, 'taken') or 0, position_of(state[2]))
  return state[1] - taken - redis.call('ZCOUNT', key .. ':aside', taken + 1, '+inf')
end
