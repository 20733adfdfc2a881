#!lua flags=allow-oom
-- Return unfinished jobs to the tail of their lane without charging the attempt.
-- include: groups
-- keys: stream_high stream_normal stream_low counters events bell delayed labels groups
-- args: lease_owner
-- each job: id fence payload
-- returns: per job: released | cancelled | lost

local results, released = {}, {}
for n = 1, items do
  local job, id, fence, payload = item(n)
  local state = read(job, 'status', 'fence', 'lease_owner', 'entry', 'priority', 'attempts', 'released_fence')
  if owns_lease(state, lease_owner, fence) then
    local stream = lane_stream(state.priority)
    drop_entry(stream, state.entry)
    redis.call('HSET', job, 'status', 'pending', 'attempts', (parse_int(state.attempts) or 1) - 1,
      'released_fence', fence, 'entry', append(stream, id, payload))
    redis.call('HDEL', job, 'lease_ms')
    moved(id, 'processing', 'pending')
    results[n], released[#released + 1] = 'released', id
  elseif state.released_fence == fence then
    results[n] = 'released'  -- recorded before; the job may have moved on since
  else
    results[n] = refusal(state.status)
  end
end
count('released', #released)
publish_event('released', released)
finish_call()
return results
