-- ARGV: age_ms, interval_ms

if not redis.call('SET', NS .. ':images_swept', 1, 'NX', 'PX', interval_ms) then return {} end
return redis.call('ZRANGEBYSCORE', NS .. ':images', 0, now() - age_ms, 'LIMIT', 0, 1000)
