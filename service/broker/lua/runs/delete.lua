-- ARGV: run, force, limit
-- include: groups.lua

local key = run_key(run)
limit = tonumber(limit)
if redis.call('EXISTS', key) == 0 then return {'no run'} end
local groups, leases = redis.call('SMEMBERS', key .. ':groups'), 0
for _, group in ipairs(groups) do
  leases = leases + redis.call('ZCOUNT', group_key(run, group) .. ':leases', now(), '+inf')
end
local open = redis.call('ZCARD', key .. ':open')
if force == '0' and open + leases > 0 then return {'busy', open, leases} end
if open > 0 then
  for _, id in ipairs(redis.call('ZRANGE', key .. ':open', 0, limit - 1)) do
    end_job(id, 'cancelled')
  end
  notify('lost')
  if open > limit then return {'more'} end
end
for _, group in ipairs(groups) do delete_group(run, group) end
for _, part in ipairs({'', ':log', ':groups', ':filtered', ':figures', ':used_up'}) do
  redis.call('UNLINK', key .. part)
end
redis.call('SREM', NS .. ':runs', run)
notify('run:' .. run)
return {'deleted'}
