#!lua flags=allow-oom
-- Move jobs whose attempt raised to the delayed index; a job whose attempts are used up fails.
-- include: groups holds
-- keys: stream_high stream_normal stream_low delayed held failed counters events bell labels groups
-- args: lease_owner retention_ms max_deferrals max_deferral_ms
-- each job: id fence payload delay_ms charged error
-- returns: per job: retrying | held (it was asked meanwhile) | failed | cancelled | lost
--
-- `charged` 0 means "retry later": the attempt is not charged, until the job has been deferred
-- max_deferrals times or for max_deferral_ms; after that it is charged. With `gate` it is never charged, and is not
-- counted among the deferrals.

local results, retrying_ids, held_ids, failed_ids, refused = {}, {}, {}, {}, 0
for n = 1, items do
  local job, id, fence, payload, delay_ms, charged, error_text = item(n)
  local state = read(job, 'status', 'fence', 'lease_owner', 'entry', 'priority', 'attempts', 'max_attempts',
    'deferrals', 'deferred_at', 'retried_fence', 'failed_fence', 'suspended_fence', 'hold_asked')
  if state.retried_fence == fence then
    results[n] = 'retrying'  -- recorded before; the job may have moved on since
  elseif state.failed_fence == fence then
    results[n] = 'failed'
  elseif state.suspended_fence == fence then
    results[n] = 'held'
  elseif not owns_lease(state, lease_owner, fence) then
    results[n] = refusal(state.status)
    if results[n] == 'lost' then refused = refused + 1 end
  else
    local attempts, deferrals = parse_int(state.attempts) or 1, parse_int(state.deferrals) or 0
    local deferred_at = parse_int(state.deferred_at) or now
    local is_deferred = charged == '0' and deferrals < tonumber(max_deferrals)
      and now - deferred_at < tonumber(max_deferral_ms)
    local is_charged = not is_deferred and charged ~= 'gate'
    if is_charged and attempts >= (parse_int(state.max_attempts) or math.huge) then
      fail_attempt(job, id, fence, payload, state, error_text, retention_ms)
      results[n], failed_ids[#failed_ids + 1] = 'failed', id
    else
      append_history(job, is_charged and 'error' or 'deferred', state, error_text)
      if state.hold_asked then
        enter_asked_hold(job, id, payload, 'retrying', now + delay_ms)
        redis.call('HSET', job, 'suspended_fence', fence)
        results[n], held_ids[#held_ids + 1] = 'held', id
      else
        redis.call('SET', job .. ':payload', payload)
        redis.call('ZADD', delayed, now + delay_ms, id)  -- first: if it fails, the job keeps its entry
        redis.call('HSET', job, 'status', 'retrying', 'retried_fence', fence)
        moved(id, 'processing', 'retrying')
        redis.call('HDEL', job, 'entry', 'lease_ms')
        results[n], retrying_ids[#retrying_ids + 1] = 'retrying', id
      end
      drop_entry(lane_stream(state.priority), state.entry)
      if not is_charged then redis.call('HSET', job, 'attempts', attempts - 1) end
      if is_deferred then
        redis.call('HSET', job, 'deferrals', deferrals + 1, 'deferred_at', deferred_at)
        count('deferred', 1)
      end
    end
  end
end
count('retried', #retrying_ids)
count('held', #held_ids)
count('failed', #failed_ids)
count('refused', refused)
publish_event('retrying', retrying_ids)
publish_event('held', held_ids)
publish_event('failed', failed_ids)
finish_call(retention_ms)
return results
