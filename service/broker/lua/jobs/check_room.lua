-- ARGV: run, key
-- include: room.lua
-- include: known_job.lua

if key ~= '' and known_job(key) then return {'room'} end
return full_queue() or run ~= '' and full_window(run) or {'room'}
