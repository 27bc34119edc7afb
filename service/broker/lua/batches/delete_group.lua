-- ARGV: run, group
-- include: groups.lua

local known = delete_group(run, group)
notify('run:' .. run)
return known
