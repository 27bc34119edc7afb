-- ARGV: state, before, limit

local set, start = NS .. ':' .. state, 0
if before ~= '' then
  local rank = redis.call('ZREVRANK', set, before)
  start = rank and rank + 1 or 0
end
return redis.call('ZREVRANGE', set, start, start + limit - 1)
