-- ARGV: image, channel

-- Which of the commands that the namespace needs this user may not call: on its keys, on its
-- channels; and those of the keys and channels on which it may call none. Each with all its
-- arguments: a server looks for keys in them without counting.
local key = NS .. ':settings'
local needed = {
  {'DEL', key}, {'EXISTS', key}, {'EXPIRE', image, 1}, {'GET', image}, {'HDEL', key, 'f'},
  {'HEXISTS', key, 'f'}, {'HGET', key, 'f'}, {'HGETALL', key}, {'HINCRBY', key, 'f', 1},
  {'HINCRBYFLOAT', key, 'f', 1}, {'HKEYS', key}, {'HMGET', key, 'f'}, {'HSET', key, 'f', 'v'},
  {'HSETNX', key, 'f', 'v'}, {'HSTRLEN', key, 'f'}, {'HVALS', key}, {'PERSIST', image},
  {'PEXPIRE', key, 1}, {'PING'}, {'PTTL', key}, {'PUBLISH', channel, 'm'}, {'SADD', key, 'm'}, {'SCARD', key},
  {'SET', image, 'v'}, {'SISMEMBER', key, 'm'}, {'SMEMBERS', key}, {'SREM', key, 'm'},
  {'SUBSCRIBE', channel}, {'TIME'}, {'UNLINK', key}, {'XACK', key, 'g', '0-1'},
  {'XADD', key, '*', 'f', 'v'}, {'XAUTOCLAIM', key, 'g', 'c', 0, 0},
  {'XCLAIM', key, 'g', 'c', 0, '0-1'}, {'XDEL', key, '0-1'}, {'XGROUP', 'CREATE', key, 'g', 0},
  {'XINFO', 'GROUPS', key}, {'XINFO', 'STREAM', key}, {'XLEN', key}, {'XPENDING', key, 'g'},
  {'XRANGE', key, '-', '+'}, {'XREAD', 'STREAMS', key, 0},
  {'XREADGROUP', 'GROUP', 'g', 'c', 'STREAMS', key, '>'}, {'XTRIM', key, 'MAXLEN', 1},
  {'ZADD', key, 1, 'm'}, {'ZCARD', key}, {'ZCOUNT', key, 0, 1}, {'ZPOPMIN', key},
  {'ZRANGE', key, 0, 1}, {'ZRANGEBYSCORE', key, 0, 1}, {'ZREM', key, 'm'},
  {'ZREMRANGEBYRANK', key, 0, 1}, {'ZREMRANGEBYSCORE', key, 0, 1}, {'ZREVRANGE', key, 0, 1},
  {'ZSCAN', key, 0}, {'ZSCORE', key, 'm'},
}
local lacking, may = {}, {}
if redis.acl_check_cmd then  -- Redis 7
  for _, command in ipairs(needed) do
    local name, on = string.lower(command[1]), command[2]
    if redis.acl_check_cmd(unpack(command)) then
      may[on or ''] = true
    else
      if name == 'xgroup' or name == 'xinfo' then name = name .. '|' .. string.lower(on) end
      lacking[#lacking + 1] = name
    end
  end
end
local none_on = {}
for _, on in ipairs({key, image, channel}) do
  if #lacking > 0 and not may[on] then none_on[#none_on + 1] = on end
end
return {lacking, none_on}
