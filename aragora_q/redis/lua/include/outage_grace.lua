-- Shared by register, renew and reclaim: tell an outage of the server from the death of a worker.

-- If nobody's heartbeat is younger than half a lease, the server (or everyone) was away: reclaim
-- waits another half lease, so that returning workers renew first. A fleet that never comes back is
-- reclaimed after it. The lease is that of the worker heard last, whatever the caller's is.
-- Twice at most per silence: if nobody came to reclaim when the first grace was over, the server may
-- have gone away after the silence was noticed. A grace that begins in the future is none: the clock
-- was set back since, perhaps by days. Nor does a heartbeat from there hide a silence: it counts as one
-- of now, since whoever lives beats again within a lease.
local function start_grace_if_silent(default_lease_ms)
  local known, graces, over, since = unpack(redis.call('HMGET', control, 'last_heartbeat_seen', 'grace_count', 'grace_until', 'grace_started_at'))
  if (tonumber(since) or 0) > now then
    redis.call('HDEL', control, 'grace_until', 'grace_started_at')
    over = nil
  end
  local worker_id, newest = unpack(redis.call('ZREVRANGE', workers, 0, 0, 'WITHSCORES'))
  if not newest then return end
  if tonumber(newest) > now then
    for _, each in ipairs(redis.call('ZRANGEBYSCORE', workers, '(' .. now_text, '+inf', 'LIMIT', 0, 100)) do
      redis.call('ZADD', workers, now, each)
    end
  end
  local half_lease = (parse_int(redis.call('HGET', worker_prefix .. worker_id, 'lease_ms')) or default_lease_ms) / 2
  if now - newest <= half_lease then return end
  graces, over = tonumber(graces) or 0, tonumber(over) or 0
  if known ~= newest then
    graces = 0
  elseif graces > 1 or now <= over + half_lease then
    return
  end
  redis.call('HSET', control, 'last_heartbeat_seen', newest, 'grace_count', graces + 1, 'grace_started_at', now,
    'grace_until', now + half_lease)
end
