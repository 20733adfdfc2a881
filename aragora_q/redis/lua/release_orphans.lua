#!lua flags=allow-oom
-- Release jobs that a worker has leased without knowing it, because the reply to a start was lost.
-- include: groups holds
-- keys: stream_high stream_normal stream_low held counters events bell delayed labels groups
-- args: lease_owner
-- each job: id fence
-- returns: ids of the released jobs
--
-- As `release`, but the payload is still in the stream entry. The attempt is not charged. A job whose hold was asked is
-- held instead, and returned, too.

local returned, released, held_ids = {}, {}, {}
for n = 1, items do
  local job, id, fence = item(n)
  local state = read(job, 'status', 'fence', 'lease_owner', 'entry', 'priority', 'attempts', 'hold_asked')
  if owns_lease(state, lease_owner, fence) then
    local stream = lane_stream(state.priority)
    local _, payload = job_of(fields_of(stream, state.entry) or {})
    if payload then
      if state.hold_asked then
        enter_asked_hold(job, id, payload, 'pending')
        held_ids[#held_ids + 1] = id
      else
        redis.call('HSET', job, 'status', 'pending', 'entry', append(stream, id, payload))
        moved(id, 'processing', 'pending')
        released[#released + 1] = id
      end
      drop_entry(stream, state.entry)
      redis.call('HSET', job, 'attempts', (parse_int(state.attempts) or 1) - 1)
      redis.call('HDEL', job, 'lease_ms', 'lease_owner')
      returned[#returned + 1] = id
    end
  end
end
count('released', #released)
count('held', #held_ids)
publish_event('released', released)
publish_event('held', held_ids)
finish_call()
return returned
