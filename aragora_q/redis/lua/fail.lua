#!lua flags=allow-oom
-- Fail jobs whose error is permanent: they become dead letters with payload and error.
-- include: groups
-- keys: stream_high stream_normal stream_low failed counters events delayed bell labels groups
-- args: lease_owner retention_ms
-- each job: id fence payload error result
-- returns: per job: failed | cancelled | lost
--
-- `result` is the job's partial result, empty if it has none; requeue deletes it. One that is too large to keep is
-- left out, and the error says so.

local results, failed_ids, refused = {}, {}, 0
for n = 1, items do
  local job, id, fence, payload, error_text, result = item(n)
  local state = read(job, 'status', 'fence', 'lease_owner', 'entry', 'priority', 'attempts', 'failed_fence')
  if owns_lease(state, lease_owner, fence) then
    if #result > MAX_DATA_BYTES then
      error_text = 'partial result left out (it has ' .. #result .. ' bytes, the limit is ' .. MAX_DATA_BYTES .. '); '
        .. error_text
      result = ''
    end
    fail_attempt(job, id, fence, payload, state, error_text, retention_ms)
    if result ~= '' then redis.call('SET', job .. ':result', result, 'PX', text(retention_ms + BACKSTOP_MS)) end
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
finish_call(retention_ms)
return results
