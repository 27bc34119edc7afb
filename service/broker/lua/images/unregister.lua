-- ARGV: ref, cutoff

local score = redis.call('ZSCORE', NS .. ':images', ref)
if not score or tonumber(score) > tonumber(cutoff) then return 0 end
return redis.call('ZREM', NS .. ':images', ref)
