-- ARGV: version, announced, remembered

local newest = redis.call('HMGET', NS .. ':weights', 'newest', 'announced')
if newest[1] and tonumber(version) <= tonumber(newest[1]) then
  return newest[2] == announced and 0 or tonumber(newest[1])  -- 0: this very call again
end
redis.call('HSET', NS .. ':weights', 'newest', version, 'announced', announced)
redis.call('HSET', NS .. ':weights:known', version, announced)
for _, kept in ipairs({':weights:refused', ':weights:known'}) do
  for _, key in ipairs(redis.call('HKEYS', NS .. kept)) do
    if tonumber(string.match(key, '^%d+')) < version - remembered then
      redis.call('HDEL', NS .. kept, key)
    end
  end
end
notify('weights')
for _, run in ipairs(redis.call('SMEMBERS', NS .. ':runs')) do notify('run:' .. run) end
return 0
