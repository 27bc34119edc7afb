-- ARGV: age_ms, interval_ms

-- The time before which an image must have been named last; 0: another sweep was a moment ago.
if not redis.call('SET', NS .. ':images_swept', 1, 'NX', 'PX', interval_ms) then return 0 end
return now() - age_ms
