#!lua flags=allow-oom
-- Renew the permits of calls under way. A reservation needs no renewal: it lasts until the call's time is over.
-- include: gates
-- repeatable
-- keys: policy
-- args: lease_ms
-- each call: call_id account
-- returns: number of permits renewed

local renewed = 0
for n = 1, items do
  local id, account = item(n)
  renewed = renewed + redis.call('ZADD', gate_key('permits', account), 'XX', 'CH', text(now + lease_ms), id)
end
return renewed
