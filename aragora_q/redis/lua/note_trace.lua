#!lua
-- Store the trace contexts of attempts: running ones, and those that have just ended.
-- repeatable
-- keys:
-- args: lease_owner
-- each job: id fence trace
-- returns: per job: ok | lost (another attempt began, or the job has ended)

local LIVE = {pending = true, processing = true, retrying = true, held = true}

local results = {}
for n = 1, items do
  local job, _, fence, trace = item(n)
  local state = read(job, 'status', 'fence', 'lease_owner')
  results[n] = 'lost'
  if state.fence == fence and state.lease_owner == lease_owner and LIVE[state.status] then
    redis.call('HSET', job, 'trace', trace)
    results[n] = 'ok'
  end
end
return results
