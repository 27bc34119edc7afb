-- ARGV: worker_id

redis.call('ZREM', NS .. ':workers', worker_id)
redis.call('UNLINK', NS .. ':worker:' .. worker_id)
