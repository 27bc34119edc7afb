-- ARGV: run, after, limit

local from = after == '' and '-' or '(' .. after
return {redis.call('HGET', run_key(run), 'epoch'),
  redis.call('XRANGE', run_key(run) .. ':filtered', from, '+', 'COUNT', limit)}
