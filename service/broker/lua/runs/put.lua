-- ARGV: run, epoch, settings
-- include: groups.lua

make_run(run, epoch, settings)
redis.call('HSET', run_key(run), unpack(cjson.decode(settings)))
trim_log(run)
