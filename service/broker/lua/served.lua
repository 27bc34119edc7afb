-- What staleness counts from: the newest version that a worker serves now. A worker whose engine is
-- down serves none. While nobody serves, it stays what it was.
local function find_served()
  local before = redis.call('HGET', NS .. ':weights', 'served')
  local served, by
  for _, id in ipairs(redis.call('ZRANGE', NS .. ':workers', 0, -1)) do
    local info = redis.call('GET', NS .. ':worker:' .. id)
    local worker = info and cjson.decode(info)
    if worker and worker.engine_ready and (not served or worker.weight_version > served) then
      served, by = worker.weight_version, id
    end
  end
  if not served then return tonumber(before or 0) end
  redis.call('HSET', NS .. ':weights', 'served', string.format('%.0f', served), 'served_by', by)
  if served ~= tonumber(before) then
    for _, run in ipairs(redis.call('SMEMBERS', NS .. ':runs')) do notify('run:' .. run) end
  end
  return served
end

-- The same, without a look at all workers while the one that serves it lives.
local function served_version()
  local known = redis.call('HMGET', NS .. ':weights', 'served', 'served_by')
  if known[2] and redis.call('EXISTS', NS .. ':worker:' .. known[2]) == 1 then
    return tonumber(known[1])
  end
  return find_served()
end
