#!lua
-- Store the trace contexts of attempts: running ones, and those that have ended.
-- repeatable
-- keys:
-- args: lease_owner
-- each job: id fence trace
-- returns: per job: ok | lost (another attempt began, or the job was deleted)

-- An attempt that ends at once may have been reported before: its job has no lease then, or only the worker's id.
local worker_id = string.match(lease_owner, '^[^@]*')
local results = {}
for n = 1, items do
  local job, _, fence, trace = item(n)
  local state = read(job, 'fence', 'lease_owner')
  local owner = state.lease_owner or worker_id
  results[n] = 'lost'
  if state.fence == fence and (owner == lease_owner or owner == worker_id) then
    redis.call('HSET', job, 'trace', trace)
    results[n] = 'ok'
  end
end
return results
