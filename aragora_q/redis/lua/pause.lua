#!lua flags=allow-oom
-- Pause the queue (no job starts, running jobs continue) or resume it.
-- keys: control events changes
-- args: paused by reason
-- returns: changed | unchanged

local current = redis.call('HGET', control, 'paused') and '1' or '0'
if current == paused then return 'unchanged' end
local before, after = 'resumed', 'paused'
if paused ~= '1' then before, after = after, before end
redis.call('HDEL', control, before, before .. '_by', before .. '_reason')
redis.call('HSET', control, after, now, after .. '_by', by, after .. '_reason', cut(reason))
redis.call('XADD', events, 'MAXLEN', '~', MAX_EVENTS, '*', 'event', after, 'by', by, 'reason', cut(reason))
note_change(paused == '1' and 'pause' or 'resume', '', {}, by, reason)
return 'changed'
