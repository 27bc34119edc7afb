-- ARGV: run, key
-- include: room.lua

local epoch = redis.call('HGET', run_key(run), 'epoch')
if epoch and redis.call('HGET', NS .. ':key:' .. key, 'epoch') == epoch then return {'room'} end
return full_window(run) or {'room'}
