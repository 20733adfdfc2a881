#!lua flags=allow-oom
-- Check that each message for a webhook is listed where it belongs, once, and expires.
-- include: groups
-- keys: labels
-- args: repair
-- each delivery: id
-- returns: per message: codes of its problems (see doctor/report.py), separated by spaces

local problems

-- Record a problem; returns true if it is to be repaired.
local function add_problem(code)
  problems[#problems + 1] = code
  return repair == '1'
end

local function check(delivery, id)
  local kind = redis.call('TYPE', delivery).ok
  if kind ~= 'hash' then
    if kind ~= 'none' then add_problem('message-wrong-type') end
    return
  end
  local state = read(delivery, 'webhook', 'result', 'ended_at')
  if not state.webhook then
    if add_problem('message-damaged') then redis.call('UNLINK', delivery) end
    return
  end
  local outbox, sent = queue_prefix .. 'outbox:' .. state.webhook, queue_prefix .. 'sent:' .. state.webhook
  local waits, is_sent = redis.pcall('ZSCORE', outbox, id), redis.pcall('ZSCORE', sent, id)
  if type(waits) == 'table' or type(is_sent) == 'table' then return end  -- a key of another type: reported as such
  if waits and is_sent and add_problem('message-twice') then redis.call('ZREM', state.result and outbox or sent, id) end
  if not (waits or is_sent) and add_problem('message-unlisted') then
    local list, at = outbox, now
    if state.result then list, at = sent, parse_time(state.ended_at) or now end
    redis.call('ZADD', list, text(at), id)
    redis.call('PEXPIRE', list, text(DELIVERY_MS))
  end
  if redis.call('PTTL', delivery) < 0 and add_problem('message-never-expires') then
    redis.call('PEXPIRE', delivery, text(DELIVERY_MS))
  end
end

local reply = {}
for n = 1, items do
  local id = item(n)
  problems = {}
  check(queue_prefix .. 'delivery:' .. id, id)
  reply[n] = table.concat(problems, ' ')
end
return reply
