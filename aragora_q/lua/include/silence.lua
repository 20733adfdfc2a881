-- Shared by renew and reclaim: tell an outage of the server from the death of a worker.

-- If nobody's heartbeat is younger than half a lease, the server (or everyone) was away: reclaim
-- waits another half lease, once per silence, so that returning workers renew first. A fleet that
-- never comes back is reclaimed after it.
local function observe_silence(lease_ms)
  local newest = redis.call('ZREVRANGE', workers, 0, 0, 'WITHSCORES')[2]
  if newest and now - newest > lease_ms / 2 and redis.call('HGET', control, 'silence') ~= newest then
    redis.call('HSET', control, 'silence', newest, 'reclaim_after', now + lease_ms / 2)
  end
end
