-- ARGV: run, group, lease
-- include: return_lease.lua

local known = redis.call('HEXISTS', group_key(run, group) .. ':held', lease)
return_lease(run, group, lease)
if known == 1 then notify('run:' .. run) end
return {redis.call('HGET', run_key(run), 'epoch'), known}
