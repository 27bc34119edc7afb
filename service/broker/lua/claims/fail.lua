-- ARGV: job_id, fence, problem

if not is_current(job_id, fence) then return 0 end
record_error(job_id, problem)
end_job(job_id, 'failed')
return 1
