-- Lanes in the order in which they are read. Of each priority: what was handed back, then jobs of
-- these kinds that a worker which does not know them had met, then the others.
local function lanes_with(kinds)
  local lanes = {}
  for _, priority in ipairs({'high', 'normal', 'low'}) do
    lanes[#lanes + 1] = priority .. ':again'
    for _, kind in ipairs(kinds) do lanes[#lanes + 1] = priority .. ':kind:' .. kind end
    lanes[#lanes + 1] = priority
  end
  return lanes
end

local function all_lanes() return lanes_with(redis.call('SMEMBERS', NS .. ':kinds')) end
