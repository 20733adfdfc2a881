#!lua flags=allow-oom
-- Disable a webhook, enable it, or forget it with its messages.
-- include: groups
-- keys: webhooks counters events labels changes
-- args: action name by reason
-- returns: changed | unchanged (it is disabled, is not disabled, or is not known)
--
-- Messages of a disabled webhook wait. Once it is enabled, they have their full time again.

local disabled = 'disabled:' .. name
local is_disabled = redis.call('HEXISTS', webhooks, disabled) == 1

-- Delete all that is known of the webhook; false if nothing is.
local function forget()
  local found = 0
  for _, kind in ipairs({'outbox:', 'sent:'}) do
    local key = queue_prefix .. kind .. name
    local ids = redis.pcall('ZRANGE', key, '0', '-1')
    for _, id in ipairs(ids.err and {} or ids) do redis.call('UNLINK', queue_prefix .. 'delivery:' .. id) end
    found = found + redis.call('UNLINK', key)
  end
  local fields = {}
  for n, field in ipairs({'since:', 'failures:', 'probe_until:', 'last_ok_at:', 'error:', 'error_at:', 'disabled:',
    'enabled_at:'}) do fields[n] = field .. name end
  return found + redis.call('HDEL', webhooks, unpack(fields)) > 0
end

if action == 'disable' then
  if is_disabled then return 'unchanged' end
  redis.call('HSET', webhooks, disabled, cjson.encode({at = now, by = by, reason = cut(reason)}))
elseif action == 'enable' then
  if not is_disabled then return 'unchanged' end
  redis.call('HDEL', webhooks, disabled, 'probe_until:' .. name)
  redis.call('HSET', webhooks, 'enabled_at:' .. name, now_text)
elseif not forget() then
  return 'unchanged'
end
local done = {disable = 'webhook_disabled', enable = 'webhook_enabled', forget = 'webhook_forgotten'}
redis.call('XADD', events, 'MAXLEN', '~', MAX_EVENTS, '*',
  'event', done[action], 'webhook', name, 'by', by, 'reason', cut(reason))
note_change(action, 'webhook:' .. name, {}, by, reason)
return 'changed'
