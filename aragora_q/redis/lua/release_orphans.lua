#!lua flags=allow-oom
-- Release jobs that a worker has leased without knowing it, because the reply to a start was lost.
-- include: groups
-- keys: stream_high stream_normal stream_low counters events bell delayed labels groups
-- args: lease_owner
-- each job: id fence
-- returns: ids of the released jobs
--
-- As `release`, but the payload is still in the stream entry. The attempt is not charged.

local released = {}
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
      moved(id, 'processing', 'pending')
      released[#released + 1] = id
    end
  end
end
count('released', #released)
publish_event('released', released)
finish_call()
return released
