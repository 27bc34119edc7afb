-- ARGV: run, group
-- include: groups.lua

local known = delete_group(run, group)
trim_log(run)
notify('run:' .. run)
return known
