#!lua flags=allow-oom
-- Pause the queue (no job starts, running jobs continue) or resume it.
-- keys: control events
-- args: paused
-- returns: changed | unchanged

local current = redis.call('HGET', control, 'paused') and '1' or '0'
if current == paused then return 'unchanged' end
if paused == '1' then redis.call('HSET', control, 'paused', now) else redis.call('HDEL', control, 'paused') end
redis.call('XADD', events, 'MAXLEN', '~', MAX_EVENTS, '*', 'event', paused == '1' and 'paused' or 'resumed')
return 'changed'
