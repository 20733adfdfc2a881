-- Shared by the scripts that write, delete or judge heartbeats (register, renew, unregister, reclaim): distinguish an outage of the server from the death of a worker.

local MIN_SILENCE_MS = 100

-- If no worker has sent a heartbeat for half of the shortest lease, assume that the server, or the whole fleet, was
-- down: reclaim then waits for another half of a job's lease, so that returning workers can renew first. Workers
-- that had been silent for a lease when another one stopped were dead then: they do not count.
-- At most two grace periods per silence: if no call came for a quarter of the shortest lease, the server may
-- have gone down again after the silence was noticed.
-- If the clock was set back, a grace period that starts in the future is cancelled, and a heartbeat in
-- the future counts as one of now: a live worker sends the next one within a lease. A stop in the future is forgotten.
-- Returns when the grace period started and when it ends, in ms; with `dry_run` it would, and nothing is
-- written.
local function start_grace_if_silent(default_lease_ms, dry_run)
  local last_seen, graces, grace_until, started_at, last_call_at, stopped_at = unpack(redis.call('HMGET', control,
    'last_heartbeat_seen', 'grace_count', 'grace_until', 'grace_started_at', 'last_grace_check_at', 'last_unregistered_at'))
  graces, grace_until, started_at = tonumber(graces) or 0, tonumber(grace_until) or 0, tonumber(started_at) or 0
  if started_at > now then
    if not dry_run then redis.call('HDEL', control, 'grace_until', 'grace_started_at') end
    grace_until, started_at = 0, 0
  end
  stopped_at = parse_int(stopped_at) or 0
  if stopped_at > now then
    if not dry_run then redis.call('HDEL', control, 'last_unregistered_at') end
    stopped_at = 0
  end
  local _, newest = unpack(redis.call('ZREVRANGE', workers, 0, 0, 'WITHSCORES'))
  if not newest then return started_at, grace_until end
  if not dry_run then redis.call('HSET', control, 'last_grace_check_at', now_text) end
  if tonumber(newest) > now and not dry_run then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', workers, '(' .. now_text, '+inf', 'LIMIT', 0, 100)) do
      redis.call('ZADD', workers, now, id)
    end
  end
  local silence = now - newest
  if silence <= MIN_SILENCE_MS then return started_at, grace_until end
  -- Only workers that were alive when the silence began, or when a later stop was recorded, count. Their shortest
  -- lease decides whether there is a silence; the longest of the leases that have aged by half decides how long
  -- the grace period is.
  local last_sign = math.max(newest, stopped_at)
  local shortest, longest = math.huge, 0
  local rows = redis.call('ZREVRANGE', workers, 0, 99, 'WITHSCORES')
  for n = 1, #rows, 2 do
    local reply = redis.pcall('HGET', worker_prefix .. rows[n], 'lease_ms')
    local lease = type(reply) == 'string' and parse_int(reply) or default_lease_ms
    if last_sign - rows[n + 1] < lease then
      shortest = math.min(shortest, lease)
      if now - rows[n + 1] > lease / 2 then longest = math.max(longest, lease) end
    end
  end
  if silence <= shortest / 2 then return started_at, grace_until end
  if last_seen ~= newest then
    graces = 0
  elseif graces > 1 or now - (tonumber(last_call_at) or 0) <= shortest / 4 then
    return started_at, grace_until
  end
  if not dry_run then
    redis.call('HSET', control, 'last_heartbeat_seen', newest, 'grace_count', graces + 1, 'grace_started_at', now,
      'grace_until', now + longest / 2)
  end
  return now, now + longest / 2
end
