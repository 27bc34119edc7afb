-- ARGV: refusal_id, refusal

redis.call('HSET', NS .. ':weights:refused', refusal_id, refusal)
notify('weights')
