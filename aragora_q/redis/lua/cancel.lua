#!lua flags=allow-oom
-- Cancel jobs in any live state, at once and for good; a running one's worker learns at its next renewal.
-- keys: stream_high stream_normal stream_low delayed cancelled counters events
-- args: retention_ms
-- each job: id
-- returns: one word per job: cancelled | unknown, or the terminal status it already has
-- (completed | failed | was-cancelled)

local words, done = {}, {}
for n = 1, items do
  local job, id = item(n)
  local state = read(job, 'status', 'entry', 'priority')
  if not state.status or is_past_retention(job) then
    words[n] = 'unknown'
  elseif state.status == 'cancelled' then
    words[n] = 'was-cancelled'
  elseif state.status == 'completed' or state.status == 'failed' then
    words[n] = state.status
  else
    if state.entry then
      local stream = lane_stream(state.priority)
      local _, payload = job_of(fields_of(stream, state.entry) or {})
      if payload then redis.call('SET', job .. ':payload', payload) end
      redis.call('HSETNX', job, 'created_at', entry_ms(state.entry))
      drop_entry(stream, state.entry)
    else
      redis.call('ZREM', delayed, id)
    end
    finish(job, id, 'cancelled', cancelled, tonumber(retention_ms))
    words[n], done[#done + 1] = 'cancelled', id
  end
end
count('cancelled', #done)
publish_event('cancelled', done)
return words
