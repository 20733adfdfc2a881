#!lua flags=allow-oom
-- Fail jobs whose error is permanent: they become dead letters with payload and error.
-- keys: stream_high stream_normal stream_low failed counters events
-- args: lease_owner retention_ms
-- each job: id fence payload error
-- returns: per job: failed | cancelled | lost

local results, failed_ids, refused = {}, {}, 0
for n = 1, items do
  local job, id, fence, payload, error_text = item(n)
  local state = read(job, 'status', 'fence', 'lease_owner', 'entry', 'priority', 'attempts')
  if owns_lease(state, lease_owner, fence) then
    drop_entry(lane_stream(state.priority), state.entry)
    redis.call('SET', job .. ':payload', payload)
    append_history(job, 'error', state, error_text)
    finish(job, id, 'failed', failed, tonumber(retention_ms))
    results[n], failed_ids[#failed_ids + 1] = 'failed', id
  elseif is_repeat(state, lease_owner, fence, 'failed') then
    results[n] = 'failed'
  else
    results[n] = refusal(state.status)
    if results[n] == 'lost' then refused = refused + 1 end
  end
end
count('failed', #failed_ids)
count('refused', refused)
publish_event('failed', failed_ids)
return results
