-- What every script has. Before it stand the settings as constants (RESULT_TTL_MS, ...).
-- KEYS: the namespace in braces: the hash tag of all keys, which keeps them on one shard

local NS = KEYS[1]
local GROUP, CONSUMER = 'workers', 'any'

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function job_key(id) return NS .. ':job:' .. id end
local function lane_key(lane) return NS .. ':lane:' .. lane end
local function run_key(run) return NS .. ':run:' .. run end

-- One channel for each kind of subject, so that a process hears only the kinds it listens for.
-- That a notification cannot be sent undoes nothing, and must not end a script half way: who waits
-- looks again when its time is up.
local function notify(subject)
  redis.pcall('PUBLISH', NS .. ':bell:' .. string.match(subject, '^%a+'), subject)
end

-- Puts the job at the end of a lane.
local function add_to_lane(id, lane)
  local entry = redis.call('XADD', lane_key(lane), '*', 'job', id)
  redis.call('HSET', job_key(id), 'lane', lane, 'entry', entry)
end

-- Takes the job out of its lane, and thereby ends its lease.
local function remove_from_lane(id)
  local place = redis.call('HMGET', job_key(id), 'lane', 'entry')
  if place[2] then
    redis.call('XACK', lane_key(place[1]), GROUP, place[2])
    redis.call('XDEL', lane_key(place[1]), place[2])
    redis.call('HDEL', job_key(id), 'lane', 'entry')
    local run = redis.call('HGET', job_key(id), 'run')
    if run then redis.call('SREM', run_key(run) .. ':running', id) end
  end
end

-- Adds to the job's history, one JSON object a line. Joined as text: cjson would turn [] into {}.
local function record_error(id, problem)
  local state = redis.call('HMGET', job_key(id), 'attempt', 'owner', 'history')
  local line = '{"attempt":' .. state[1] .. ',"worker":' .. cjson.encode(state[2] or '') ..
    ',"at":' .. string.format('%.3f', now() / 1000) .. ',"error":' .. problem .. '}'
  local history = state[3] and state[3] .. '\n' .. line or line
  redis.call('HSET', job_key(id), 'error', problem, 'history', history)
end

-- The one way in which a job ends: out of its lane, and out of every set that counts open jobs.
-- `made`: bytes of its result.
local function end_job(id, status, made)
  remove_from_lane(id)
  local job, time = job_key(id), now()
  local kept = status == 'dead' and 'dead' or 'ended'
  local state = redis.call('HMGET', job, 'run', 'bytes')
  local run, bytes = state[1], (state[2] or 0) + (made or redis.call('HSTRLEN', job, 'history'))
  -- Where it lies in all the bytes that such jobs ever had: what lies behind it shows how much is
  -- kept. A sum that only grows, so that nothing can drift.
  local end_byte = redis.call('HINCRBY', NS .. ':stats', kept .. '_bytes', bytes)
  redis.call('HSET', job, 'status', status, 'finished', time, 'end_byte', end_byte)
  redis.call('ZREM', NS .. ':open', id)
  redis.call('ZREM', NS .. ':retries', id)
  redis.call('ZREM', NS .. ':deadlines', id)
  if run then
    redis.call('ZREM', run_key(run) .. ':open', id)
    if status == 'dead' then redis.call('HINCRBY', run_key(run), 'dead', 1) end
  end
  if status == 'dead' then
    redis.call('ZADD', NS .. ':dead', time, id)
  else
    redis.call('ZADD', NS .. ':ended', time, id)
    redis.call('PEXPIRE', job, RESULT_TTL_MS)
    redis.call('PEXPIRE', job .. ':events', RESULT_TTL_MS)
  end
  redis.call('HINCRBY', NS .. ':stats', status, 1)
  notify('job:' .. id)
end

-- True if the attempt with this number still runs: nobody started the job anew or ended it.
local function is_current(id, fence)
  local state = redis.call('HMGET', job_key(id), 'status', 'attempt')
  return state[1] == 'running' and state[2] == fence
end

-- Keeps images that a job or pair has just named; they must be known already.
local function touch_images(refs)
  local time = now()
  for ref in string.gmatch(refs, '%S+') do
    redis.call('ZADD', NS .. ':images', 'XX', 'GT', time, ref)
  end
end

-- Brings a run to life on first mention.
local function make_run(run, epoch, settings)
  if redis.call('EXISTS', run_key(run)) == 0 then
    redis.call('HSET', run_key(run), 'epoch', epoch, 'pairs', 0, unpack(cjson.decode(settings)))
    redis.call('SADD', NS .. ':runs', run)
  end
end
