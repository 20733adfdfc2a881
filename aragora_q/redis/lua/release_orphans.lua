#!lua flags=allow-oom
-- Hand back what a worker holds without its knowledge: starts whose reply was lost on the way. As
-- release, but the payload is still where nobody has read it, in the entry. Nothing is charged.
-- keys: stream_high stream_normal stream_low counters events
-- args: lease_owner
-- each job: id fence
-- returns: ids handed back

local returned = {}
for n = 1, items do
  local job, id, fence = item(n)
  local state = read(job, 'status', 'fence', 'lease_owner', 'entry', 'priority', 'attempts')
  if owns_lease(state, lease_owner, fence) then
    local stream = lane_stream(state.priority)
    local _, payload = job_of(fields_of(stream, state.entry) or {})
    if payload then
      drop_entry(stream, state.entry)
      redis.call('HSET', job, 'status', 'pending', 'attempts', (parse_int(state.attempts) or 1) - 1,
        'entry', append(stream, id, payload))
      redis.call('HDEL', job, 'lease_ms', 'lease_owner')
      returned[#returned + 1] = id
    end
  end
end
count('released', #returned)
publish_event('released', returned)
return returned
