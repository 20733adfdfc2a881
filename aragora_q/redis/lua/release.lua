#!lua flags=allow-oom
-- Return unfinished jobs to the tail of their lane without charging the attempt.
-- include: groups holds
-- keys: stream_high stream_normal stream_low held counters events bell delayed labels groups
-- args: lease_owner
-- each job: id fence payload
-- returns: per job: released | held (it was asked meanwhile) | cancelled | lost

local results, released, held_ids = {}, {}, {}
for n = 1, items do
  local job, id, fence, payload = item(n)
  local state = read(job, 'status', 'fence', 'lease_owner', 'entry', 'priority', 'attempts', 'released_fence',
    'suspended_fence', 'hold_asked')
  if owns_lease(state, lease_owner, fence) then
    local stream, attempts = lane_stream(state.priority), (parse_int(state.attempts) or 1) - 1
    if state.hold_asked then
      enter_asked_hold(job, id, payload, 'pending')
      redis.call('HSET', job, 'attempts', attempts, 'suspended_fence', fence)
      drop_entry(stream, state.entry)
      results[n], held_ids[#held_ids + 1] = 'held', id
    else
      drop_entry(stream, state.entry)
      redis.call('HSET', job, 'status', 'pending', 'attempts', attempts, 'released_fence', fence,
        'entry', append(stream, id, payload))
      redis.call('HDEL', job, 'lease_ms')
      moved(id, 'processing', 'pending')
      results[n], released[#released + 1] = 'released', id
    end
  elseif state.released_fence == fence then
    results[n] = 'released'  -- recorded before; the job may have moved on since
  elseif state.suspended_fence == fence then
    results[n] = 'held'
  else
    results[n] = refusal(state.status)
  end
end
count('released', #released)
count('held', #held_ids)
publish_event('released', released)
publish_event('held', held_ids)
finish_call()
return results
