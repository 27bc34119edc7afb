-- ARGV: run, group, lease
-- include: return_lease.lua

local epoch = redis.call('HGET', run_key(run), 'epoch')
if redis.call('HEXISTS', group_key(run, group) .. ':held', lease) == 0 then
  return {epoch, is_used_up(run, lease) and 1 or 0}  -- perhaps this very call again
end
return_lease(run, group, lease)
use_up(run, lease)
notify('run:' .. run)
return {epoch, 1}
