#!lua flags=allow-oom
-- Put jobs whose attempt raised on the delayed index; a job whose attempts are used up fails.
-- keys: stream_high stream_normal stream_low delayed failed counters events
-- args: lease_owner retention_ms max_deferrals max_deferral_ms
-- each job: id fence payload delay_ms charged error
-- returns: one word per job: retrying | failed | cancelled | lost
--
-- `charged` 0 is "retry later": the attempt is given back, until the job has been put off too often
-- or for too long; from then on it is charged like any other.

local words, waiting, dead, refused = {}, {}, {}, 0
for n = 1, items do
  local job, id, fence, payload, delay_ms, charged, error_text = item(n)
  local state = read(job, 'status', 'fence', 'lease_owner', 'entry', 'priority', 'attempts', 'max_attempts',
    'deferrals', 'deferred_at')
  if is_repeat(state, lease_owner, fence, 'retrying') or is_repeat(state, lease_owner, fence, 'failed') then
    words[n] = state.status
  elseif not owns_lease(state, lease_owner, fence) then
    words[n] = refusal(state.status)
    if words[n] == 'lost' then refused = refused + 1 end
  else
    drop_entry(lane_stream(state.priority), state.entry)
    redis.call('SET', job .. ':payload', payload)
    local attempts, deferrals = parse_int(state.attempts) or 1, parse_int(state.deferrals) or 0
    local since = parse_int(state.deferred_at) or now
    local free = charged == '0' and deferrals < tonumber(max_deferrals)
      and now - since < tonumber(max_deferral_ms)
    append_history(job, free and 'deferred' or 'error', state, error_text)
    if not free and attempts >= (parse_int(state.max_attempts) or math.huge) then
      finish(job, id, 'failed', failed, tonumber(retention_ms))
      words[n], dead[#dead + 1] = 'failed', id
    else
      redis.call('HSET', job, 'status', 'retrying')
      redis.call('HDEL', job, 'entry', 'lease_ms')
      redis.call('ZADD', delayed, now + delay_ms, id)
      if free then
        redis.call('HSET', job, 'attempts', attempts - 1, 'deferrals', deferrals + 1,
          'deferred_at', since)
        count('deferred', 1)
      end
      words[n], waiting[#waiting + 1] = 'retrying', id
    end
  end
end
count('retried', #waiting)
count('failed', #dead)
count('refused', refused)
publish_event('retrying', waiting)
publish_event('failed', dead)
return words
