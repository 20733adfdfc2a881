#!lua
-- Store the trace contexts of running attempts that began new traces.
-- repeatable
-- keys:
-- args: lease_owner
-- each job: id fence trace
-- returns: per job: ok | lost

local results = {}
for n = 1, items do
  local job, _, fence, trace = item(n)
  results[n] = 'lost'
  if owns_lease(read(job, 'status', 'fence', 'lease_owner'), lease_owner, fence) then
    redis.call('HSET', job, 'trace', trace)
    results[n] = 'ok'
  end
end
return results
