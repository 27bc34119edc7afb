local function group_key(run, group) return run_key(run) .. ':group:' .. group end
local function position_of(place) return tonumber(string.match(place or '0', '^%d+')) end
local DEFAULT_GATING_GROUP = 'trainer'  -- of a run of an older release
