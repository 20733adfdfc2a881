#!lua flags=allow-oom
-- Take messages that are due from the outboxes of webhooks: each attempt has a lease until it is settled.
-- include: groups
-- keys: webhooks counters labels
-- args:
-- each webhook: name limit lease_ms
-- returns: ms until the next message is due (-1: none waits), then per message: id, webhook, kind, subject, event, at,
-- attempts with this one, end of the lease
--
-- A webhook that is disabled gets none. One whose last attempt failed gets one at a time, of all processes together.

local MAX_REPAIRED = 1000
local reply, next_due = {-1}, math.huge

-- Take one message, if its data still exists; else it is removed. Returns true if it was taken.
local function take_one(outbox, name, id, lease_ms)
  local delivery = queue_prefix .. 'delivery:' .. id
  local state = read(delivery, 'webhook', 'kind', 'subject', 'event', 'at')
  if not (state.webhook == name and state.kind and state.subject and state.event and parse_int(state.at)) then
    redis.call('ZREM', outbox, id)  -- it expired, or another program changed it
    return false
  end
  local attempts = tolerate_damage(redis.pcall('HINCRBY', delivery, 'attempts', '1'))
  if type(attempts) == 'table' then
    redis.call('HSET', delivery, 'attempts', '1')
    attempts = 1
  end
  redis.call('ZADD', outbox, text(now + lease_ms), id)
  reply[#reply + 1] = {id, name, state.kind, state.subject, state.event, parse_int(state.at), attempts, now + lease_ms}
  return true
end

-- Make messages due whose time is further away than any attempt sets it: the server's clock was ahead.
local function correct_times(outbox)
  local ahead = '(' .. text(now + GIVE_UP_MS)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', outbox, ahead, '+inf', 'LIMIT', '0', text(MAX_REPAIRED))) do
    redis.call('ZADD', outbox, now_text, id)
  end
end

-- Take messages of an outbox that are due. Those that expired, up to MAX_REPAIRED in a call, make way for others.
local function take(outbox, name, limit, lease_ms)
  local gone, taken, ids = 0, 0, nil
  repeat
    ids = redis.call('ZRANGEBYSCORE', outbox, '-inf', now_text, 'LIMIT', '0', text(limit - taken))
    for _, id in ipairs(ids) do
      if take_one(outbox, name, id, lease_ms) then taken = taken + 1 else gone = gone + 1 end
    end
  until taken == limit or #ids == 0 or gone >= MAX_REPAIRED
  count('deliveries_dropped', gone)
  if taken > 0 then redis.call('PEXPIRE', outbox, text(DELIVERY_MS)) end
  return taken
end

for n = 1, items do
  local name, limit, lease_ms = item(n)
  local outbox = queue_prefix .. 'outbox:' .. name
  local due = redis.pcall('ZRANGE', outbox, '0', '0', 'WITHSCORES')
  if not due.err and due[1] then
    local state = read(webhooks, 'disabled:' .. name, 'failures:' .. name, 'probe_until:' .. name)
    local failures = parse_int(state['failures:' .. name]) or 0
    local probe_until = parse_int(state['probe_until:' .. name]) or 0
    if state['disabled:' .. name] then
      local expired = redis.call('ZREMRANGEBYSCORE', outbox, '-inf', '(' .. text(now - DELIVERY_MS))
      count('deliveries_dropped', expired)
    elseif failures > 0 and probe_until > now and probe_until <= now + GIVE_UP_MS then
      next_due = math.min(next_due, probe_until)
    else
      correct_times(outbox)
      local taken = take(outbox, name, failures > 0 and math.min(1, limit) or tonumber(limit), tonumber(lease_ms))
      if failures > 0 and taken > 0 then redis.call('HSET', webhooks, 'probe_until:' .. name, text(now + lease_ms)) end
      local left = redis.call('ZRANGE', outbox, '0', '0', 'WITHSCORES')
      if left[2] then next_due = math.min(next_due, tonumber(left[2])) end
    end
  end
end
if next_due < math.huge then reply[1] = math.max(0, math.ceil(next_due - now)) end
return reply
