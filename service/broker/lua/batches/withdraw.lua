-- ARGV: run, group, token, call
-- include: return_lease.lua

-- Who made this call has left. What it leased goes back, unless the caller has asked again since.
local lease = (redis.call('HGET', run_key(run), 'epoch') or '') .. '~' .. group .. '~' .. token
local holder = redis.call('HGET', group_key(run, group) .. ':calls', lease)
if holder and string.match(holder, ' (.+)$') == call then
  return_lease(run, group, lease)
  notify('run:' .. run)
end
