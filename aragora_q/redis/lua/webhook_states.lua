#!lua flags=no-writes,allow-oom
-- Read the state of webhooks.
-- include: groups
-- keys: webhooks labels
-- args:
-- each webhook: name
-- returns: now, then per webhook: messages that wait, since when the one waits that waits the longest (-1: none), and
-- what `webhooks` holds: failures, last_ok_at, error, error_at, disabled

-- When the message that waits the longest was put in an outbox. The order there is by due time: those that were not
-- tried yet come in the order of their times, and those that were tried most often, the oldest, come last. So it is
-- looked for among the first and the last of them. A message that is sent again waits since then.
local function oldest_in(outbox)
  local oldest = math.huge
  for _, range in ipairs({{'0', '99'}, {'-100', '-1'}}) do
    for _, id in ipairs(redis.call('ZRANGE', outbox, unpack(range))) do
      local at = entry_ms(id) or now
      if at < oldest then
        local queued_at = read(queue_prefix .. 'delivery:' .. id, 'queued_at').queued_at
        oldest = math.min(oldest, parse_int(queued_at) or at)
      end
    end
  end
  return oldest
end

local reply = {now}
for n = 1, items do
  local name = item(n)
  local outbox = queue_prefix .. 'outbox:' .. name
  local size = redis.pcall('ZCARD', outbox)
  if type(size) ~= 'number' then size = 0 end  -- a key of another type
  local state = read(webhooks, 'failures:' .. name, 'last_ok_at:' .. name, 'error:' .. name, 'error_at:' .. name,
    'disabled:' .. name)
  reply[#reply + 1] = {size, size > 0 and oldest_in(outbox) or -1, state['failures:' .. name] or '',
    state['last_ok_at:' .. name] or '', state['error:' .. name] or '', state['error_at:' .. name] or '',
    state['disabled:' .. name] or ''}
end
return reply
