-- ARGV: run, group, lease, lease_ms
-- include: groups.lua

local epoch, expiry = redis.call('HGET', run_key(run), 'epoch'), now() + lease_ms
if redis.call('HEXISTS', group_key(run, group) .. ':held', lease) == 0 then return {epoch, 0} end
redis.call('ZADD', group_key(run, group) .. ':leases', expiry, lease)
return {epoch, expiry}
