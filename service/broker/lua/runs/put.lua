-- ARGV: run, epoch, defaults, settings
-- include: groups.lua

make_run(run, epoch, defaults)
local named = cjson.decode(settings)
if #named > 0 then redis.call('HSET', run_key(run), unpack(named)) end
trim_log(run)
notify('run:' .. run)  -- what who waits has seen may be enough now
