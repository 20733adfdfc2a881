#!lua flags=allow-oom
-- Disable a webhook (its messages wait) or enable it: messages that waited have their full time again.
-- keys: webhooks events
-- args: webhook enabled by reason
-- returns: changed | unchanged

local is_enabled = not redis.call('HGET', webhooks, 'disabled:' .. webhook)
if is_enabled == (enabled == '1') then return 'unchanged' end
if enabled == '1' then
  redis.call('HDEL', webhooks, 'disabled:' .. webhook)
  redis.call('HSET', webhooks, 'enabled_at:' .. webhook, now_text)
else
  redis.call('HSET', webhooks, 'disabled:' .. webhook, cjson.encode({at = now, by = by, reason = reason}))
end
return 'changed'
