#!lua flags=allow-oom
-- Hold live jobs: they do not start until `unhold`. A running job is held when its attempt ends, if that does not end
-- the job.
-- include: groups holds
-- keys: stream_high stream_normal stream_low delayed held counters events bell labels groups changes
-- args: cause by reason until_ms
-- each job: id
-- returns: per job: held | asked (it is running) | was-held | was-asked | unknown, or the terminal status it has
--
-- `until_ms` is a duration, empty for none. A person who holds a job that was held automatically takes the hold over.

local results, held_ids, changed_ids = {}, {}, {}

-- Hold a job in its lane, in the delayed index, or, if its data is damaged, in neither.
local function hold_waiting(job, id, state)
  local due = redis.call('ZSCORE', delayed, id)
  enter_held(job, id, state.status, state.status, parse_int(due), now_text)
  if state.entry then
    local stream = lane_stream(state.priority)
    local _, payload = job_of(fields_of(stream, state.entry) or {})
    if payload then redis.call('SET', job .. ':payload', payload) end
    drop_entry(stream, state.entry)
    redis.call('HSETNX', job, 'created_at', text(entry_ms(state.entry) or now))  -- `entry` may be damaged
  end
  if due then redis.call('ZREM', delayed, id) end
  write_hold(job, state, cause, by, reason, until_ms, '')
end

for n = 1, items do
  local job, id = item(n)
  local state = read(job, 'status', 'entry', 'priority', 'attempts', 'hold_cause', 'hold_asked')
  local status = state.status
  if not status or is_past_retention(job) then
    results[n] = 'unknown'
  elseif status == 'pending' or status == 'retrying' then
    hold_waiting(job, id, state)
    results[n], held_ids[#held_ids + 1], changed_ids[#changed_ids + 1] = 'held', id, id
  elseif status == 'processing' then
    results[n] = state.hold_asked and 'was-asked' or 'asked'
    if not state.hold_asked then
      redis.call('HSET', job, 'hold_asked', now_text)
      changed_ids[#changed_ids + 1] = id
      write_hold(job, state, cause, by, reason, until_ms, '')
    end
  elseif status ~= 'held' then
    results[n] = status
  elseif cause == 'person' and state.hold_cause ~= 'person' then
    write_hold(job, state, cause, by, reason, until_ms, '')
    results[n], changed_ids[#changed_ids + 1] = 'held', id
  else
    results[n] = 'was-held'
  end
end
count('held', #held_ids)
publish_event('held', held_ids, 'by', by, 'reason', cut(reason))
if cause == 'person' and #changed_ids > 0 then note_changes('hold', '', changed_ids, by, reason) end
finish_call()
return results
