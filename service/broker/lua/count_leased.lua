-- include: groups.lua

-- Pairs under leases that have not run out.
local function count_leased(run, group)
  local g, count = group_key(run, group), 0
  for _, lease in ipairs(redis.call('ZRANGEBYSCORE', g .. ':leases', now(), '+inf')) do
    local _, positions = string.gsub(redis.call('HGET', g .. ':held', lease) or '', '%d+', '')
    count = count + positions
  end
  return count
end
