#!lua flags=allow-oom
-- Mark a group as cancelled: it takes no more jobs, and its `then` is not enqueued. Its live jobs are cancelled
-- afterwards, in batches.
-- include: groups
-- keys: stream_high stream_normal stream_low delayed counters events bell labels groups
-- args: group retention_ms
-- returns: marked | unknown

local key = group_key(group)
local state = read(key, 'created_at', 'sealed_at', 'ended_at', 'then', 'pending', 'processing', 'retrying')
if not state.created_at then return 'unknown' end
redis.call('HSET', key, 'cancelled_at', now_text, 'sealed_at', state.sealed_at or now_text)
if state['then'] == 'waiting' then
  redis.call('HSET', key, 'then', 'cancelled')
  redis.call('DEL', key .. ':then')
end
local live = 0
for _, status in ipairs({'pending', 'processing', 'retrying'}) do live = live + (parse_int(state[status]) or 0) end
if live <= 0 and not state.ended_at then end_group(key, nil, retention_ms) end
finish_call(retention_ms)
return 'marked'
