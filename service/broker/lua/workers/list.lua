local infos = {}
for _, id in ipairs(redis.call('ZRANGE', NS .. ':workers', 0, -1)) do
  local info = redis.call('GET', NS .. ':worker:' .. id)
  if info then infos[#infos + 1] = info end
end
return infos
