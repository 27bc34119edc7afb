-- ARGV: run, pair, images, nonce, key, fingerprint, new_epoch, run_settings
-- include: count_waiting.lua
-- include: append_pair.lua

make_run(run, new_epoch, run_settings)
local epoch = redis.call('HGET', run_key(run), 'epoch')
local first = redis.call('HMGET', NS .. ':key:' .. key, 'epoch', 'fingerprint')
if first[1] == epoch then return {first[2] == fingerprint and 'known' or 'conflict'} end
local window = tonumber(redis.call('HGET', run_key(run), 'window'))
local used = redis.call('ZCARD', run_key(run) .. ':open') + count_waiting(run, 'trainer')
if used >= window then return {'window', used, window} end
for ref in string.gmatch(images, '%S+') do
  if not redis.call('ZSCORE', NS .. ':images', ref) then return {'image', ref} end
end
append_pair(run, pair, images, '', nonce)
redis.call('HSET', NS .. ':key:' .. key, 'epoch', epoch, 'fingerprint', fingerprint)
redis.call('PEXPIRE', NS .. ':key:' .. key, IDEMPOTENCY_TTL_MS)
return {'new'}
