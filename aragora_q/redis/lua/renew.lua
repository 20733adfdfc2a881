#!lua flags=allow-oom
-- Record a worker's heartbeat and renew the leases it owns.
-- include: outage_grace
-- keys: stream_high stream_normal stream_low counters events control workers worker
-- args: worker_prefix worker_id lease_owner instance_id lease_ms running record_ttl_ms
-- each job: id fence
-- returns: ok | paused | unregistered, then per job: owned | lost | cancelled
--
-- Idle times in the pending list count from a fixed moment, so an outage of the server ages every lease
-- at once: see outage_grace. A worker without a record of its instance must register again, but keeps
-- the leases that no other worker took over.

start_grace_if_silent(tonumber(lease_ms))
local reply, owned = {redis.call('HGET', control, 'paused') and 'paused' or 'ok'}, {}
if redis.call('HGET', worker, 'instance_id') == instance_id then
  redis.call('ZADD', workers, now, worker_id)
  redis.call('HSET', worker, 'heartbeat_at', now, 'running', running)
  redis.call('PEXPIRE', worker, record_ttl_ms)
else
  reply[1] = 'unregistered'
end
for n = 1, items do
  local job, id, fence = item(n)
  local state = read(job, 'status', 'fence', 'lease_owner', 'entry', 'priority')
  if owns_lease(state, lease_owner, fence) then
    local stream = lane_stream(state.priority)
    owned[stream] = owned[stream] or {}
    table.insert(owned[stream], state.entry)
    reply[n + 1] = 'owned'
  else
    reply[n + 1] = refusal(state.status)
  end
end
for stream, entries in pairs(owned) do
  entries[#entries + 1] = 'JUSTID'
  redis.pcall('XCLAIM', stream, GROUP, worker_id, 0, unpack(entries))
end
return reply
