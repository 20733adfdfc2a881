#!lua flags=allow-oom
-- Cancel live jobs, whatever their status; the worker of a running job learns of it at its next renewal.
-- include: groups
-- keys: stream_high stream_normal stream_low delayed held cancelled counters events bell labels groups changes
-- args: retention_ms by reason group
-- each job: id
-- returns: per job: cancelled | unknown, or the terminal status it already had
-- (completed | failed | was-cancelled)
--
-- `group`: the group that is cancelled with all its jobs; empty: none is.

local results, cancelled_ids = {}, {}
for n = 1, items do
  local job, id = item(n)
  local state = read(job, 'status', 'entry', 'priority', 'attempts')
  if not state.status or is_past_retention(job) then
    results[n] = 'unknown'
  elseif state.status == 'cancelled' then
    results[n] = 'was-cancelled'
  elseif state.status == 'completed' or state.status == 'failed' then
    results[n] = state.status
  else
    if state.entry then
      local stream = lane_stream(state.priority)
      local _, payload = job_of(fields_of(stream, state.entry) or {})
      drop_entry(stream, state.entry)
      if payload then redis.call('SET', job .. ':payload', payload) end
      redis.call('HSETNX', job, 'created_at', text(entry_ms(state.entry) or now))  -- `entry` may be damaged
    else
      redis.call('ZREM', state.status == 'held' and held or delayed, id)
    end
    note_actor(job, 'cancelled', state, by, reason)
    finish(job, id, state.status, 'cancelled', cancelled, tonumber(retention_ms))
    results[n], cancelled_ids[#cancelled_ids + 1] = 'cancelled', id
  end
end
count('cancelled', #cancelled_ids)
publish_event('cancelled', cancelled_ids, 'by', by, 'reason', cut(reason))
if #cancelled_ids > 0 then note_changes('cancel', group ~= '' and 'group:' .. group or '', cancelled_ids, by, reason) end
finish_call(retention_ms)
return results
