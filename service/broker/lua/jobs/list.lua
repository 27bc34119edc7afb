-- ARGV: state, score, id, limit

-- Jobs older than a place, whether or not the job that was there still is; and the place of the last.
local set = NS .. ':' .. state
local start = 0
if score ~= '' then
  -- Those of the same millisecond are in the order of their ids.
  local stop = redis.call('ZCOUNT', set, score, '+inf')
  start = redis.call('ZCOUNT', set, '(' .. score, '+inf')
  while start < stop do
    local middle = math.floor((start + stop) / 2)
    if redis.call('ZREVRANGE', set, middle, middle)[1] >= id then
      start = middle + 1
    else
      stop = middle
    end
  end
end
local found, ids = redis.call('ZREVRANGE', set, start, start + limit - 1, 'WITHSCORES'), {}
for i = 1, #found, 2 do ids[#ids + 1] = found[i] end
return {ids, #ids == tonumber(limit) and found[#found] .. '-' .. ids[#ids] or ''}
