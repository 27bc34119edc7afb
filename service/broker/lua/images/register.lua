-- ARGV: ref

redis.call('ZADD', NS .. ':images', now(), ref)
