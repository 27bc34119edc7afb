-- ARGV: run, after, limit

local state = redis.call('HMGET', run_key(run), 'epoch', 'last', 'trimmed')
local place = {}
if after ~= '' then
  local position = string.match(after, '^%d+')
  place = redis.call('XRANGE', run_key(run) .. ':log', position, position)
end
local from = after == '' and '-' or '(' .. after
local entries = redis.call('XRANGE', run_key(run) .. ':log', from, '+', 'COUNT', limit)
return {state[1], state[2] or '0-0', state[3] or '0-0', place[1] and place[1][1] or '', entries}
