#!lua flags=allow-oom
-- Fail jobs whose error is permanent: they become dead letters with payload and error.
-- keys: stream_high stream_normal stream_low failed counters events
-- args: lease_owner retention_ms
-- each job: id fence payload error
-- returns: per job: failed | cancelled | lost

local results, failed_ids, refused = {}, {}, 0
for n = 1, items do
  local job, id, fence, payload, error_text = item(n)
  local state = read(job, 'status', 'fence', 'lease_owner', 'entry', 'priority', 'attempts', 'failed_fence')
  if owns_lease(state, lease_owner, fence) then
    fail_attempt(job, id, fence, payload, state, error_text, retention_ms)
    results[n], failed_ids[#failed_ids + 1] = 'failed', id
  elseif state.failed_fence == fence then
    results[n] = 'failed'  -- recorded before; the job may have moved on since
  else
    results[n] = refusal(state.status)
    if results[n] == 'lost' then refused = refused + 1 end
  end
end
count('failed', #failed_ids)
count('refused', refused)
publish_event('failed', failed_ids)
return results
