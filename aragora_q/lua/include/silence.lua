-- Shared by renew and reclaim: tell an outage of the server from the death of a worker.

-- If nobody's heartbeat is younger than half a lease, the server (or everyone) was away: reclaim
-- waits another half lease, once per silence, so that returning workers renew first. A fleet that
-- never comes back is reclaimed after it. The lease is that of the worker heard last, whatever the
-- caller's is.
local function observe_silence(default_lease_ms)
  local worker_id, newest = unpack(redis.call('ZREVRANGE', workers, 0, 0, 'WITHSCORES'))
  if not newest or redis.call('HGET', control, 'silence') == newest then return end
  local half_lease = (redis.call('HGET', worker_stem .. worker_id, 'lease_ms') or default_lease_ms) / 2
  if now - newest > half_lease then
    redis.call('HSET', control, 'silence', newest, 'reclaim_after', now + half_lease)
  end
end
