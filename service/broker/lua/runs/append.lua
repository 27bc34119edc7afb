-- ARGV: run, pair, images, nonce, figures, key, fingerprint, new_epoch, run_settings
-- include: room.lua
-- include: offer_pair.lua

make_run(run, new_epoch, run_settings)
local epoch = redis.call('HGET', run_key(run), 'epoch')
local first = redis.call('HMGET', NS .. ':key:' .. key, 'epoch', 'fingerprint', 'filters')
if first[1] == epoch then
  return {first[2] == fingerprint and 'known' or 'conflict', first[3] or ''}
end
local full = full_window(run)
if full then return full end
for ref in string.gmatch(images, '%S+') do
  if not redis.call('ZSCORE', NS .. ':images', ref) then return {'image', ref} end
end
local outcome, failed = offer_pair(run, pair, images, '', nonce, figures)
count_outcome(run, outcome)
local filters = table.concat(failed, ' ')
redis.call('HSET', NS .. ':key:' .. key, 'epoch', epoch, 'fingerprint', fingerprint,
  'filters', filters)
redis.call('PEXPIRE', NS .. ':key:' .. key, IDEMPOTENCY_TTL_MS)
return {'new', filters}
