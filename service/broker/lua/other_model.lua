-- A live worker that serves another model than this one, or makes other tokens or pixels of
-- requests: what it says of itself, and the milliseconds until silence removes it. Nil: there is
-- none. A worker of an older release has no digest; its model's name alone counts.
local function other_model(worker)
  local digest = type(worker.input_digest) == 'table' and worker.input_digest or {}
  for _, id in ipairs(redis.call('ZRANGE', NS .. ':workers', 0, -1)) do
    local key = NS .. ':worker:' .. id
    local info = id ~= worker.id and redis.call('GET', key)
    if info then
      local other = cjson.decode(info)
      local its = type(other.input_digest) == 'table' and other.input_digest or {}
      local differs = other.model ~= worker.model
      for name, value in pairs(digest) do
        differs = differs or (its[name] and its[name] ~= value)
      end
      if differs then return {info, redis.call('PTTL', key)} end
    end
  end
end
