-- ARGV: version

local key = NS .. ':weights'
local newest = redis.call('HGET', key, 'newest')
if newest ~= version and redis.call('HEXISTS', key .. ':known', version) == 0 then
  return redis.call('SISMEMBER', key .. ':withdrawn', version)  -- 1: perhaps this very call again
end
redis.call('HDEL', key .. ':known', version)
redis.call('SADD', key .. ':withdrawn', version)
if newest == version then
  local left
  for _, other in ipairs(redis.call('HKEYS', key .. ':known')) do
    if not left or tonumber(other) > tonumber(left) then left = other end
  end
  if left then
    redis.call('HSET', key, 'newest', left, 'announced', redis.call('HGET', key .. ':known', left))
  else
    redis.call('HDEL', key, 'newest', 'announced')
  end
end
notify('weights')
return 1
