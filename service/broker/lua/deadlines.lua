local function error_json(code, message, details)
  return cjson.encode({code = code, message = message, details = details})
end

local function miss_deadline(id)
  record_error(id, error_json('deadline_exceeded', 'The deadline that the request set has passed.',
    {attempt = tonumber(redis.call('HGET', job_key(id), 'attempt'))}))
  end_job(id, 'failed')
  notify('lost')
end
