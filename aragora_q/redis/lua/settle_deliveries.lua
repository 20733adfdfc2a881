#!lua flags=allow-oom
-- Record how attempts to deliver messages ended.
-- include: groups
-- keys: webhooks counters events labels
-- args:
-- each attempt: webhook id attempts result delay_ms pause_ms answer
-- returns: per attempt: delivered | waiting | failed (given up) | skipped | settled (recorded before, or by a later
-- attempt)
--
-- `result` is ok, retry, gone (the target wants no more messages: the webhook is disabled, the message waits) or skip (the
-- configuration does not want it: it is deleted). After a failure, no message of the webhook is taken for pause_ms. A
-- message is given up GIVE_UP_MS after it was put in the outbox, or after its webhook was enabled.

-- Move a message from the outbox to those that are sent. The oldest ones make room.
local function end_delivery(outbox, name, id, delivery, result)
  local sent = queue_prefix .. 'sent:' .. name
  redis.call('ZREM', outbox, id)
  redis.call('HSET', delivery, 'result', result, 'ended_at', now_text)
  redis.call('PEXPIRE', delivery, text(DELIVERY_MS))
  if type(redis.pcall('ZADD', sent, now_text, id)) == 'table' then return end  -- a key of another type
  redis.call('PEXPIRE', sent, text(DELIVERY_MS))
  redis.call('ZREMRANGEBYSCORE', sent, '-inf', '(' .. text(now - DELIVERY_MS))
  local excess = redis.call('ZCARD', sent) - MAX_SENT
  if excess <= 0 then return end
  for n, old in ipairs(redis.call('ZPOPMIN', sent, text(excess))) do
    if n % 2 == 1 then redis.call('UNLINK', queue_prefix .. 'delivery:' .. old) end
  end
end

-- True if the message has waited for too long since it was put in the outbox, or its webhook was enabled.
local function is_too_old(name, state)
  local enabled_at = parse_int(read(webhooks, 'enabled_at:' .. name)['enabled_at:' .. name]) or 0
  return now - math.max(parse_int(state.queued_at) or 0, enabled_at) >= GIVE_UP_MS
end

local function settle(name, id, attempts, result, delay_ms, pause_ms, answer)
  local outbox, delivery = queue_prefix .. 'outbox:' .. name, queue_prefix .. 'delivery:' .. id
  local state = read(delivery, 'attempts', 'settled', 'queued_at')
  local due = tolerate_damage(redis.pcall('ZSCORE', outbox, id))
  if type(due) ~= 'string' or not state.queued_at then return 'settled' end  -- a table: a key of another type
  if result == 'skip' then
    redis.call('ZREM', outbox, id)
    redis.call('UNLINK', delivery)
    return 'skipped'
  end
  if result ~= 'ok' and (state.attempts ~= attempts or state.settled == attempts) then return 'settled' end
  redis.call('HSET', delivery, 'settled', attempts, 'answer', answer)
  if result == 'ok' then
    redis.call('HDEL', webhooks, 'failures:' .. name, 'probe_until:' .. name)
    redis.call('HSET', webhooks, 'last_ok_at:' .. name, now_text)
    end_delivery(outbox, name, id, delivery, 'delivered')
    count('deliveries', 1)
    return 'delivered'
  end
  local failures = (parse_int(read(webhooks, 'failures:' .. name)['failures:' .. name]) or 0) + 1
  redis.call('HSET', webhooks, 'probe_until:' .. name, text(now + pause_ms))
  redis.call('HSET', webhooks, 'failures:' .. name, text(failures), 'error:' .. name, answer, 'error_at:' .. name, now_text)
  if result == 'gone' then
    local disabled = cjson.encode({at = now, by = 'the target', reason = answer})
    if redis.call('HSETNX', webhooks, 'disabled:' .. name, disabled) == 1 then
      redis.call('XADD', events, 'MAXLEN', '~', MAX_EVENTS, '*',
        'event', 'webhook_disabled', 'webhook', name, 'by', 'the target', 'reason', answer)
    end
    delay_ms = '0'
  elseif is_too_old(name, state) then
    end_delivery(outbox, name, id, delivery, 'failed')
    count('deliveries_failed', 1)
    return 'failed'
  end
  redis.call('ZADD', outbox, text(now + delay_ms), id)
  redis.call('PEXPIRE', outbox, text(DELIVERY_MS))
  redis.call('PEXPIRE', delivery, text(DELIVERY_MS))
  return 'waiting'
end

local results = {}
for n = 1, items do results[n] = settle(item(n)) end
return results
