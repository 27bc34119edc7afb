-- ARGV: run, key
-- include: room.lua

if key ~= '' then
  local first = redis.call('HGET', NS .. ':key:' .. key, 'job')
  if first and redis.call('EXISTS', job_key(first)) == 1 then return {'room'} end
end
return full_queue() or run ~= '' and full_window(run) or {'room'}
