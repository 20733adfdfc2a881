#!lua
-- Seal a group: it takes no more jobs, and ends when its last job has ended. Optionally store one job, `then`,
-- which the script that ends the group enqueues, and the webhooks, `notify`, to which it reports that.
-- include: groups
-- keys: stream_high stream_normal stream_low delayed completed failed cancelled counters events bell labels groups changes
-- args: group retention_ms then_id then_payload then_priority then_delay_ms then_max_attempts then_labels then_trace notify by reason
-- returns: sealed | was-sealed (with the same `then` and `notify`) | other-then (it is sealed with another `then`, or
-- without) | other-notify | taken (a job has the id of `then`) | refused (too large) | unknown
--
-- An empty `then_id` means no job; `then_trace` is the trace context that the job carries, or empty; `notify` are names
-- separated by spaces, or empty. A group that has no live job ends at once.

local key = group_key(group)
local state = read(key, 'created_at', 'sealed_at', 'then_digest', 'notify')
local digest = then_id ~= '' and redis.sha1hex(table.concat(
  {then_id, then_payload, then_priority, then_delay_ms, then_max_attempts, then_labels}, ' ')) or ''
if not state.created_at then return 'unknown' end
if state.sealed_at then
  if digest ~= '' and state.then_digest ~= digest then return 'other-then' end
  return (notify == '' or state.notify == notify) and 'was-sealed' or 'other-notify'
end
if #then_payload > MAX_DATA_BYTES or #then_id > MAX_JOB_ID_CHARS or #then_labels + #notify > MAX_LABELS_BYTES then
  return 'refused'
end
if digest ~= '' then
  local then_job = queue_prefix .. 'job:' .. then_id
  if not is_free(then_job, then_id, redis.call('EXISTS', then_job) == 1, labels_of({then_id})[1]) then return 'taken' end
  redis.call('SET', key .. ':then', then_payload)
  redis.call('HSET', key, 'then', 'waiting', 'then_id', then_id, 'then_priority', then_priority, 'then_delay_ms',
    then_delay_ms, 'then_max_attempts', then_max_attempts, 'then_labels', then_labels, 'then_digest', digest)
  if then_trace ~= '' then redis.call('HSET', key, 'then_trace', then_trace) end
end
if notify ~= '' then redis.call('HSET', key, 'notify', notify) end
redis.call('HSET', key, 'sealed_at', now_text)
redis.call('XADD', events, 'MAXLEN', '~', MAX_EVENTS, '*', 'event', 'sealed', 'group', group,
  'by', by, 'reason', cut(reason))
note_change('seal', 'group:' .. group, {}, by, reason)
get_groups().update_group(group, {}, retention_ms)  -- ends it if no job is live
finish_call(retention_ms)
return 'sealed'
