-- Shared by register, renew and reclaim: distinguish an outage of the server from the death of a worker.

-- If no worker has sent a heartbeat for half a lease, assume that the server, or the whole fleet, was
-- down: reclaim then waits for another half lease, so that returning workers can renew first. The lease
-- is that of the worker with the newest heartbeat, not the caller's.
-- At most two grace periods per silence: if no reclaim came when the first one was over, the server may
-- have gone down again after the silence was noticed.
-- If the clock was set back, a grace period that starts in the future is cancelled, and a heartbeat in
-- the future counts as one of now: a live worker sends the next one within a lease.
-- Returns when the grace period started and when it ends, in ms; with `dry_run` it would, and nothing is
-- written.
local function start_grace_if_silent(default_lease_ms, dry_run)
  local last_seen, graces, grace_until, started_at = unpack(redis.call('HMGET', control, 'last_heartbeat_seen', 'grace_count', 'grace_until', 'grace_started_at'))
  graces, grace_until, started_at = tonumber(graces) or 0, tonumber(grace_until) or 0, tonumber(started_at) or 0
  if started_at > now then
    if not dry_run then redis.call('HDEL', control, 'grace_until', 'grace_started_at') end
    grace_until, started_at = 0, 0
  end
  local worker_id, newest = unpack(redis.call('ZREVRANGE', workers, 0, 0, 'WITHSCORES'))
  if not newest then return started_at, grace_until end
  if tonumber(newest) > now and not dry_run then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', workers, '(' .. now_text, '+inf', 'LIMIT', 0, 100)) do
      redis.call('ZADD', workers, now, id)
    end
  end
  local half_lease = (parse_int(redis.call('HGET', worker_prefix .. worker_id, 'lease_ms')) or default_lease_ms) / 2
  if now - newest <= half_lease then return started_at, grace_until end
  if last_seen ~= newest then
    graces = 0
  elseif graces > 1 or now <= grace_until + half_lease then
    return started_at, grace_until
  end
  if not dry_run then
    redis.call('HSET', control, 'last_heartbeat_seen', newest, 'grace_count', graces + 1, 'grace_started_at', now,
      'grace_until', now + half_lease)
  end
  return now, now + half_lease
end
