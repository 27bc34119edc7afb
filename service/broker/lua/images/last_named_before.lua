-- ARGV: cutoff, count

return redis.call('ZRANGEBYSCORE', NS .. ':images', 0, cutoff, 'LIMIT', 0, count)
