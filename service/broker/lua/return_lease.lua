-- include: groups.lua

-- Ends a lease; what it held is delivered again, before anything new.
local function return_lease(run, group, lease)
  local g = group_key(run, group)
  local held = redis.call('HGET', g .. ':held', lease)
  end_lease(g, lease)
  if not held then return end
  for position in string.gmatch(held, '%d+') do
    redis.call('ZADD', g .. ':again', position, position)
    redis.call('HINCRBY', g .. ':tries', position, 1)
    redis.call('HINCRBY', g, 'redelivered', 1)
  end
end
