#!lua flags=allow-oom
-- A worker's heartbeat, and the renewal of the leases it holds.
-- include: outage_grace
-- keys: stream_high stream_normal stream_low counters events control workers worker
-- args: worker_prefix worker_id lease_owner instance_id lease_ms running record_ttl_ms
-- each job: id fence
-- returns: a word (ok | paused | unregistered), then one word per job: held | lost | cancelled
--
-- Pending times are absolute, so an outage of the server ages every lease at once. Whoever first
-- finds that no worker was heard for half a lease gives all of them half a lease of grace. A worker
-- without a record of its boot must sign on again, but keeps the leases that nobody took.

start_grace_if_silent(tonumber(lease_ms))
local reply, held = {redis.call('HGET', control, 'paused') and 'paused' or 'ok'}, {}
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
    held[stream] = held[stream] or {}
    table.insert(held[stream], state.entry)
    reply[n + 1] = 'held'
  else
    reply[n + 1] = refusal(state.status)
  end
end
for stream, list in pairs(held) do
  list[#list + 1] = 'JUSTID'
  redis.pcall('XCLAIM', stream, GROUP, worker_id, 0, unpack(list))
end
return reply
