#!lua flags=allow-oom
-- Record a worker's heartbeat and renew the leases it owns.
-- include: outage_grace
-- repeatable
-- keys: stream_high stream_normal stream_low counters events control workers worker
-- args: job_prefix worker_prefix worker_id lease_owner instance_id lease_ms running record_ttl_ms starting_ms loop_lag_ms
-- each job: id fence
-- returns: ok | paused | unregistered, then per job: owned | lost | cancelled
--
-- Idle times in the pending list count from a fixed moment, so an outage of the server ages every lease
-- at once: see outage_grace. A worker without a record of its instance must register again, but keeps
-- the leases that no other worker took over.
-- A `starting_ms` of 0 or more is the age of a start whose reply may still be on its way to the worker, whose
-- event loop may be blocked: the leases of jobs that started since then are renewed, too.

start_grace_if_silent(tonumber(lease_ms))
local reply, owned = {redis.call('HGET', control, 'paused') and 'paused' or 'ok'}, {}
if read(worker, 'instance_id').instance_id == instance_id then
  redis.call('ZADD', workers, now, worker_id)
  redis.call('HSET', worker, 'heartbeat_at', now, 'running', running, 'loop_lag_ms', loop_lag_ms)
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
-- As with drop_entries, a value that is not an entry id must not cost the other leases.
for stream, entries in pairs(owned) do
  entries[#entries + 1] = 'JUSTID'
  if redis.pcall('XCLAIM', stream, GROUP, worker_id, 0, unpack(entries)).err then
    for n = 1, #entries - 1 do redis.pcall('XCLAIM', stream, GROUP, worker_id, 0, entries[n], 'JUSTID') end
  end
end

local earliest = now - starting_ms - lease_ms / 8

local function renew_unknown(stream)
  local pending = redis.pcall('XPENDING', stream, GROUP, 'IDLE', math.floor(lease_ms / 8), '-', '+', 100, worker_id)
  for _, row in ipairs(pending.err and {} or pending) do
    local id = job_of(fields_of(stream, row[1]) or {})
    local state = id and read(job_prefix .. id, 'status', 'lease_owner', 'entry', 'started_at') or {}
    if state.status == 'processing' and state.lease_owner == lease_owner and state.entry == row[1]
      and (parse_int(state.started_at) or now) >= earliest then
      redis.call('XCLAIM', stream, GROUP, worker_id, 0, row[1], 'JUSTID')
    end
  end
end

if tonumber(starting_ms) >= 0 then
  for _, stream in ipairs({stream_high, stream_normal, stream_low}) do renew_unknown(stream) end
end
return reply
