-- ARGV: run, group, token
-- include: return_lease.lua

local epoch = redis.call('HGET', run_key(run), 'epoch')
if not epoch then return end
local lease = epoch .. '~' .. group .. '~' .. token
return_lease(run, group, lease)
use_up(run, lease)
notify('run:' .. run)
