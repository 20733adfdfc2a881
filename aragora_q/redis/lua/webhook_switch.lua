#!lua flags=allow-oom
-- Disable a webhook (its messages wait) or enable it: messages that waited have their full time again.
-- keys: webhooks events changes
-- args: webhook enabled by reason
-- returns: changed | unchanged

local is_enabled = not redis.call('HGET', webhooks, 'disabled:' .. webhook)
if is_enabled == (enabled == '1') then return 'unchanged' end
if enabled == '1' then
  redis.call('HDEL', webhooks, 'disabled:' .. webhook, 'probe_until:' .. webhook)
  redis.call('HSET', webhooks, 'enabled_at:' .. webhook, now_text)
else
  redis.call('HSET', webhooks, 'disabled:' .. webhook, cjson.encode({at = now, by = by, reason = cut(reason)}))
end
redis.call('XADD', events, 'MAXLEN', '~', MAX_EVENTS, '*',
  'event', enabled == '1' and 'webhook_enabled' or 'webhook_disabled', 'webhook', webhook, 'by', by,
  'reason', cut(reason))
note_change(enabled == '1' and 'enable' or 'disable', 'webhook:' .. webhook, {}, by, reason)
return 'changed'
