-- ARGV: layout, values...

-- Names and values in turn. What is there stays.
local key = NS .. ':settings'
redis.call('HSETNX', key, 'layout', layout)
if redis.call('HGET', key, 'layout') == layout then
  for i = 1, #values, 2 do redis.call('HSETNX', key, values[i], values[i + 1]) end
end
