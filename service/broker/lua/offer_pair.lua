-- include: append_pair.lua

-- Names of what the run leaves the pair out for; empty: nothing.
local function failed_filters(run, figures)
  local settings = redis.call('HMGET', run_key(run), 'similar', 'filters')
  local failed = {}
  if figures.similar and settings[1] == 'drop' then failed[1] = 'similar' end
  for name, filter in pairs(cjson.decode(settings[2] or '{}')) do
    local passes = true
    if name == 'finish_reasons' then
      for _, reason in ipairs(figures.finish_reasons) do
        local allowed = false
        for _, one in ipairs(filter) do allowed = allowed or one == reason end
        passes = passes and allowed
      end
    else
      local value = figures.values[name]
      passes = not value
        or not (filter.min and value < filter.min or filter.max and value > filter.max)
    end
    if not passes then failed[#failed + 1] = name end
  end
  return failed
end

-- Keeps a pair that was left out, among the newest of them.
local function keep_apart(run, pair, images, nonce, failed)
  for _, name in ipairs(failed) do redis.call('HINCRBY', run_key(run), 'filtered:' .. name, 1) end
  local state = redis.call('HMGET', run_key(run), 'keep', 'retention')
  local most = math.min(tonumber(state[1]), tonumber(state[2] or '') or math.huge)
  local place = redis.call('HINCRBY', run_key(run), 'left_out', 1) .. '-' .. nonce
  redis.call('XADD', run_key(run) .. ':filtered', 'MAXLEN', most, place, 'pair', pair,
    'images', images, 'filters', table.concat(failed, ' '))
  touch_images(images)
end

local function count_figures(run, figures)
  local key = run_key(run) .. ':figures'
  for name, value in pairs(figures.values) do
    redis.call('HINCRBYFLOAT', key, name, value)
    redis.call('HINCRBY', key, name .. ':' .. figures.buckets[name], 1)
  end
end

-- To the end of the run's log, or apart. Answers with what came of it, and the filters that left it
-- out.
local function offer_pair(run, pair, images, version, nonce, figures)
  figures = cjson.decode(figures)
  local outcome, failed = figures.outcome, {}
  if outcome == 'pair' then
    failed = failed_filters(run, figures)
    if failed[1] then outcome = failed[1] == 'similar' and 'similar' or 'filtered' end
  end
  if outcome == 'pair' then
    append_pair(run, pair, images, version, nonce)
    count_figures(run, figures)
  elseif failed[1] then
    keep_apart(run, pair, images, nonce, failed)
  end
  return outcome, failed
end

local function count_outcome(run, outcome)
  redis.call('HINCRBY', run_key(run), 'outcome:' .. outcome, 1)
end
