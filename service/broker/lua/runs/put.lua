-- ARGV: run, epoch, settings

make_run(run, epoch, settings)
redis.call('HSET', run_key(run), unpack(cjson.decode(settings)))
