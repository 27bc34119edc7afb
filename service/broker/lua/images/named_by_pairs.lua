-- ARGV: run, stream, start

local entries = redis.call('XRANGE', run_key(run) .. ':' .. stream, start, '+', 'COUNT', 500)
local refs = {}
for i, entry in ipairs(entries) do refs[i] = entry[2][4] end
return {#entries > 0 and entries[#entries][1] or '', refs}
