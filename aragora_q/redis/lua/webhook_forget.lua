#!lua flags=allow-oom
-- Delete the state and the messages of a webhook that no configuration has any more.
-- include: groups
-- keys: webhooks counters labels changes
-- args: webhook by reason
-- returns: changed | unchanged (it is not known)

local found = 0
for _, kind in ipairs({'outbox:', 'sent:'}) do
  local key = queue_prefix .. kind .. webhook
  local ids = redis.pcall('ZRANGE', key, '0', '-1')
  for _, id in ipairs(ids.err and {} or ids) do redis.call('UNLINK', queue_prefix .. 'delivery:' .. id) end
  found = found + redis.call('UNLINK', key)
end
for _, field in ipairs({'since:', 'failures:', 'probe_until:', 'last_ok_at:', 'error:', 'error_at:', 'disabled:', 'enabled_at:'}) do
  found = found + redis.call('HDEL', webhooks, field .. webhook)
end
if found == 0 then return 'unchanged' end
note_change('forget', 'webhook:' .. webhook, {}, by, reason)
return 'changed'
