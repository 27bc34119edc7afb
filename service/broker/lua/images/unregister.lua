-- ARGV: ref, age_ms

local score = redis.call('ZSCORE', NS .. ':images', ref)
if not score or tonumber(score) > now() - age_ms then return 0 end
return redis.call('ZREM', NS .. ':images', ref)
