#!lua flags=allow-oom
-- Unregister workers: delete their records, and their consumers if nothing is pending for them.
-- include: outage_grace
-- keys: stream_high stream_normal stream_low workers control bell
-- args: worker_prefix default_lease_ms silent_leases
-- each worker: worker_id instance_id
-- returns: number of consumers deleted
--
-- With an empty `instance_id`, only workers that have been silent for `silent_leases` of their leases are
-- unregistered, and none in a grace period: without their heartbeats, no other call would notice the outage.
-- Deleting a consumer drops its pending entries, so only an empty one is deleted, in the same call that found it empty.

local _, grace_until = start_grace_if_silent(tonumber(default_lease_ms))

local deleted = 0
for n = 1, items do
  local worker_id, instance_id = item(n)
  local record = worker_prefix .. worker_id
  local state = read(record, 'instance_id', 'lease_ms')
  local heartbeat = redis.call('ZSCORE', workers, worker_id)
  local is_gone = not heartbeat or now >= grace_until and now - heartbeat >= silent_leases * (parse_int(state.lease_ms) or default_lease_ms)
  if instance_id ~= '' then is_gone = state.instance_id == instance_id end
  if is_gone then
    local has_pending = false
    for _, stream in ipairs({stream_high, stream_normal, stream_low}) do
      local pending = redis.pcall('XPENDING', stream, GROUP, '-', '+', 1, worker_id)
      if not pending.err and #pending > 0 then
        has_pending = true
      elseif not pending.err then
        redis.pcall('XGROUP', 'DELCONSUMER', stream, GROUP, worker_id)
        deleted = deleted + 1
      end
    end
    redis.call('ZREM', workers, worker_id)
    -- Else the heartbeats that are left, perhaps of workers long dead, would look like the beginning of an outage.
    -- Not in a grace period: those that have not come back yet are not dead.
    if instance_id ~= '' and now >= grace_until then redis.call('HSET', control, 'last_unregistered_at', now_text) end
    if string.find(redis.call('HGET', control, 'maintainer') or '', worker_id .. ' ', 1, true) == 1 then
      redis.call('HDEL', control, 'maintainer')
    end
    appended = 1  -- it may have taken a token without starting a job
    if not has_pending then redis.call('DEL', record) end
  end
end
ring_bell()
return deleted
