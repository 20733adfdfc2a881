#!lua flags=allow-oom
-- Note what a worker's configuration says of budgets and providers, for as long as it lives; book overdue calls.
-- include: gates policy
-- repeatable
-- keys: policy declared declarers overrides reservations
-- args: worker_id declaration ttl_ms
-- returns: number of overdue calls that were booked
--
-- `declaration` is JSON: `budgets` and `providers` by name, `prices` (a digest). Empty: the worker declares no more.

local is_changed = forget_silent() > 0
if declaration == '' then
  is_changed = redis.call('HDEL', declared, worker_id) == 1 or is_changed
  redis.call('ZREM', declarers, worker_id)
else
  is_changed = redis.call('HGET', declared, worker_id) ~= declaration or is_changed
  if is_changed then redis.call('HSET', declared, worker_id, declaration) end
  redis.call('ZADD', declarers, text(now + ttl_ms), worker_id)
end
-- Another program may have deleted or damaged what applies: the worker would declare without end.
local rules, is_damaged = read_policy()
local is_missing = declaration ~= '' and not rules.digests[redis.sha1hex(declaration)]
if is_changed or is_damaged or is_missing then compile_policy() end
return estimate_overdue(100)
