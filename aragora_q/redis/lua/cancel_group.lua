#!lua flags=allow-oom
-- Mark a group as cancelled: it takes no more jobs, and its `then` is not enqueued. Its live jobs are cancelled
-- afterwards, in batches. A group that has ended stays as it is.
-- include: groups
-- keys: stream_high stream_normal stream_low delayed counters events bell labels groups changes
-- args: group retention_ms by reason
-- returns: marked | ended | unknown

local key = group_key(group)
local state = read(key, 'created_at', 'sealed_at', 'ended_at', 'cancelled_at', 'then')
if not state.created_at then return 'unknown' end
if state.ended_at then return 'ended' end
drop_entry(stream_normal, '0-0')  -- no such entry: raises an error if the user may not cancel jobs
redis.call('HSET', key, 'cancelled_at', state.cancelled_at or now_text, 'sealed_at', state.sealed_at or now_text)
if not state.cancelled_at then
  if by ~= '' or reason ~= '' then redis.call('HSET', key, 'cancelled_by', by, 'cancelled_reason', cut(reason)) end
  redis.call('XADD', events, 'MAXLEN', '~', MAX_EVENTS, '*', 'event', 'group_cancelled', 'group', group,
    'by', by, 'reason', cut(reason))
  note_change('cancel', 'group:' .. group, {}, by, reason)
end
if state['then'] == 'waiting' then
  redis.call('HSET', key, 'then', 'cancelled')
  redis.call('DEL', key .. ':then')
end
get_groups().update_group(group, {}, retention_ms)  -- ends it if no job is live
finish_call(retention_ms)
return 'marked'
