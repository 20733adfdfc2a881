#!lua flags=allow-oom
-- Put messages in their outbox again, or make those that wait there due now.
-- include: groups
-- keys: webhooks labels changes
-- args: webhook by reason
-- each delivery: id
-- returns: per delivery: redelivered | waiting (it is due now) | full | unknown
--
-- With `webhook`, messages of others are unknown.

local results, redelivered = {}, {}  -- ids by webhook

for n = 1, items do
  local id = item(n)
  local delivery = queue_prefix .. 'delivery:' .. id
  local name = read(delivery, 'webhook').webhook
  if webhook ~= '' and name ~= webhook then name = nil end
  local outbox = queue_prefix .. 'outbox:' .. (name or '')
  local size = name and redis.pcall('ZCARD', outbox)
  if type(size) ~= 'number' then
    results[n] = 'unknown'
  elseif redis.call('ZSCORE', outbox, id) then
    redis.call('ZADD', outbox, now_text, id)
    results[n] = 'waiting'
  elseif size >= MAX_OUTBOX then
    results[n] = 'full'
  else
    redis.call('ZADD', outbox, now_text, id)
    redis.call('PEXPIRE', outbox, text(DELIVERY_MS))
    redis.pcall('ZREM', queue_prefix .. 'sent:' .. name, id)
    redis.call('HDEL', delivery, 'result', 'ended_at', 'attempts', 'settled')
    redis.call('HSET', delivery, 'queued_at', now_text)
    redis.call('PEXPIRE', delivery, text(DELIVERY_MS))
    results[n] = 'redelivered'
  end
  if results[n] == 'redelivered' or results[n] == 'waiting' then
    redelivered[name] = redelivered[name] or {}
    table.insert(redelivered[name], id)
  end
end
for name, ids in pairs(redelivered) do
  redis.call('HDEL', webhooks, 'probe_until:' .. name)  -- an operator expects it now
  note_changes('redeliver', 'webhook:' .. name, ids, by, reason)
end
return results
