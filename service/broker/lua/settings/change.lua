-- ARGV: values...

redis.call('HSET', NS .. ':settings', unpack(values))
notify('settings')
