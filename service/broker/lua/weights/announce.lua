-- ARGV: version, announced, remembered, max_step

local key = NS .. ':weights'
local newest = redis.call('HMGET', key, 'newest', 'announced')
if newest[1] == version and newest[2] == announced then return {'announced'} end  -- once more
local number, last = tonumber(version), tonumber(newest[1] or 0)
local withdrawn = redis.call('SISMEMBER', key .. ':withdrawn', version) == 1
if withdrawn or number <= last then
  local free = last + 1
  while redis.call('SISMEMBER', key .. ':withdrawn', string.format('%.0f', free)) == 1 do
    free = free + 1
  end
  return {withdrawn and 'withdrawn' or 'not newer', last, free}
end
if number - last > tonumber(max_step) then return {'too far', last} end
redis.call('HSET', key, 'newest', version, 'announced', announced)
redis.call('HSET', key .. ':known', version, announced)

local known = redis.call('HKEYS', key .. ':known')
table.sort(known, function(a, b) return tonumber(a) > tonumber(b) end)
for i = remembered + 1, #known do redis.call('HDEL', key .. ':known', known[i]) end
for _, refusal in ipairs(redis.call('HKEYS', key .. ':refused')) do
  if tonumber(string.match(refusal, '^%d+')) < number - remembered then
    redis.call('HDEL', key .. ':refused', refusal)
  end
end
for _, other in ipairs(redis.call('SMEMBERS', key .. ':withdrawn')) do
  if tonumber(other) < number - remembered then
    redis.call('SREM', key .. ':withdrawn', other)
  end
end
notify('weights')
return {'announced'}
