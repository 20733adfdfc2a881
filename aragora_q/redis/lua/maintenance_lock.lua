#!lua flags=allow-oom
-- Take or release the lock that allows one cron pass at a time; record a successful pass.
-- keys: control counters
-- args: action token ttl_ms
-- returns: ok | busy
--
-- action: begin | end | abandon. The lock expires, so that a killed pass does not block others for long.

local owner, expires_at = string.match(redis.call('HGET', control, 'maintenance_lock') or '', '^(.*) (%d+)$')
if owner and owner ~= token and tonumber(expires_at) > now then return 'busy' end
if action == 'begin' then
  redis.call('HSET', control, 'maintenance_lock', token .. ' ' .. string.format('%d', now + ttl_ms))
else
  redis.call('HDEL', control, 'maintenance_lock')
  if action == 'end' then redis.call('HSET', counters, 'last_reap_at', now) end
end
return 'ok'
