-- ARGV: worker_id
-- include: served.lua

redis.call('ZREM', NS .. ':workers', worker_id)
redis.call('UNLINK', NS .. ':worker:' .. worker_id)
notify('weights')
find_served()
