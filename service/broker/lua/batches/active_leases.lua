-- ARGV: run, group, leases...
-- include: groups.lua

-- Of these leases, those that have not run out; and the milliseconds until the first of them does.
local active, time, first = {}, now(), math.huge
for _, lease in ipairs(leases) do
  local expiry = tonumber(redis.call('ZSCORE', group_key(run, group) .. ':leases', lease) or 0)
  if expiry > time then
    active[#active + 1] = lease
    first = math.min(first, expiry - time)
  end
end
return {active, #active > 0 and first or 0}
