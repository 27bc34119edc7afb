local letters = redis.call('ZPOPMIN', NS .. ':dead', 1000)
for i = 1, #letters, 2 do
  redis.call('UNLINK', job_key(letters[i]), job_key(letters[i]) .. ':events')
end
return #letters / 2
