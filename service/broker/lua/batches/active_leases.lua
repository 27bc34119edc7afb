-- ARGV: run, group, leases...
-- include: groups.lua

local active = {}
for _, lease in ipairs(leases) do
  if redis.call('HEXISTS', group_key(run, group) .. ':held', lease) == 1 then
    active[#active + 1] = lease
  end
end
return active
