-- ARGV: state, cursor

local page, refs = redis.call('ZSCAN', NS .. ':' .. state, cursor, 'COUNT', 500), {}
for i = 1, #page[2], 2 do
  refs[#refs + 1] = redis.call('HGET', job_key(page[2][i]), 'images') or ''
end
return {page[1], refs}
