#!lua flags=allow-oom
-- Register a worker, unless another instance with its id has a heartbeat younger than that one's lease.
-- include: outage_grace
-- keys: stream_high stream_normal stream_low control workers worker
-- args: worker_prefix worker_id instance_id lease_ms record_ttl_ms dead_instance_id info
-- returns: ok | taken, ms until the other instance's lease expires | newer, the queue's schema
--
-- `dead_instance_id` is an instance whose process the caller knows to be dead. `info` is a JSON object of
-- strings.

local schema = parse_int(redis.call('HGET', control, 'schema')) or SCHEMA
if schema > SCHEMA then return {'newer', schema} end
redis.call('HSET', control, 'schema', schema)

start_grace_if_silent(tonumber(lease_ms))  -- before this worker's own heartbeat ends the silence
local record = read(worker, 'instance_id', 'lease_ms')
local current = record.instance_id
if current and current ~= instance_id and current ~= dead_instance_id then
  local heartbeat = redis.call('ZSCORE', workers, worker_id)
  local left = heartbeat and heartbeat + (parse_int(record.lease_ms) or lease_ms) - now or 0
  if left > 0 then return {'taken', left} end
end
for _, stream in ipairs({stream_high, stream_normal, stream_low}) do create_group(stream) end
redis.call('DEL', worker)
redis.call('HSET', worker, 'instance_id', instance_id, 'lease_ms', lease_ms, 'heartbeat_at', now,
  'registered_at', now, 'running', '')
for name, value in pairs(cjson.decode(info)) do redis.call('HSET', worker, name, value) end
redis.call('PEXPIRE', worker, record_ttl_ms)
redis.call('ZADD', workers, now, worker_id)
return {'ok'}
