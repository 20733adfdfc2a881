#!lua flags=allow-oom
-- One cron pass at a time: take the lock, or give it back and note a good pass.
-- keys: control counters
-- args: action token ttl_ms
-- returns: ok | busy
--
-- action: begin | end | abandon. The lock expires by itself, so a killed pass blocks nobody for long.

local owner, untilms = string.match(redis.call('HGET', control, 'maintenance_lock') or '', '^(.*) (%d+)$')
if owner and owner ~= token and tonumber(untilms) > now then return 'busy' end
if action == 'begin' then
  redis.call('HSET', control, 'maintenance_lock', token .. ' ' .. string.format('%d', now + ttl_ms))
else
  redis.call('HDEL', control, 'maintenance_lock')
  if action == 'end' then redis.call('HSET', counters, 'last_reap_at', now) end
end
return 'ok'
