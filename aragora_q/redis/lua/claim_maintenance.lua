#!lua flags=allow-oom
-- Ask to be the worker that does the queue's maintenance; the right expires unless it is asked for again.
-- keys: control counters workers
-- args: worker_id ttl_ms
-- returns: 1 if the worker may (otherwise 0), number of registered workers, ms since the last purge (-1: never)

local maintainer, expires_at = string.match(redis.call('HGET', control, 'maintainer') or '', '^(.*) (%d+)$')
local left = maintainer and tonumber(expires_at) - now or 0
local purged_at = parse_int(redis.call('HGET', counters, 'last_purge_at'))
local status = {0, redis.call('ZCARD', workers), purged_at and now - purged_at or -1}
-- More time left than any worker asks for means that the clock was set back.
if maintainer and maintainer ~= worker_id and left > 0 and left <= 60000 then return status end
redis.call('HSET', control, 'maintainer', worker_id .. ' ' .. text(now + ttl_ms))
status[1] = 1
return status
