#!lua
-- Ask to send one call: a place among the account's calls, and a reservation in every budget that applies, or nothing.
-- include: gates
-- repeatable
-- keys: policy accounts reservations
-- args: digest call_id account provider agent model queue tenant group job usd tokens timeout_ms lease_ms job_usd job_tokens
-- returns: undeclared (what the worker declared does not apply: it declares it again) | granted | used (it was settled:
-- another call needs another id) | wait, ms, why | closed, ms (-1: until someone acts), why
-- | over, budget, on_full (hold | fail | job), ms until its window turns (-1: it does not), why
-- (full | never | unpriced), limit, spent, reserved, needed
--
-- `usd` is the highest price of the call in micro-dollars (empty: unknown), `tokens` the most that it takes; `job_usd`
-- and `job_tokens` are the job's own limits (empty: none). Asked again with the same id, a granted call is granted, also
-- if it was estimated meanwhile.
-- Calls that wait are served in the order in which they first asked.

local PROBE_MS = 30000
local MIN_WAIT_MS, MAX_WAIT_MS = 50, 1000
local PAUSE_STEP_MS, HOLD_PAUSED_MS = 30000, 900000
local BURST_MS = 1000         -- of a rate: what an idle account may send at once
local SEEN_MS = 5000          -- a waiting call that does not ask again within this time lost its turn

local record = read_record(call_id)
if record then
  if record.state == 'granted' then
    tolerate_damage(redis.pcall('ZADD', gate_key('permits', account), text(now + lease_ms), call_id))
  end
  return {record.state == 'settled' and 'used' or 'granted'}
end
estimate_overdue(10)

local account_key, permits = gate_key('account', account), gate_key('permits', account)
local waiters = gate_key('waiters', account)
local seen = waiters .. ':seen'
local rules, is_damaged = read_policy()
if is_damaged or digest ~= '' and not rules.digests[digest] then return {'undeclared'} end
local limits = rules.providers[account] or rules.providers[provider] or {}
local state = read(account_key, 'until', 'why', 'probe', 'probe_until', 'limit', 'requests_at', 'tokens_at')
usd, tokens = parse_int(usd), tonumber(tokens)

local function forget_waiting()
  if redis.call('ZREM', waiters, call_id) == 1 then redis.call('ZREM', seen, call_id) end
end

local function refuse(...)
  forget_waiting()
  return {...}
end

-- 1. The account is closed.
local pause = rules.paused[account] or rules.paused[provider]
if pause then
  local paused_ms = now - pause.at
  return refuse('closed', paused_ms >= HOLD_PAUSED_MS and -1 or math.min(PAUSE_STEP_MS, HOLD_PAUSED_MS - paused_ms), 'paused')
end
local closed_until = parse_int(state['until'])
if closed_until == -1 then return refuse('closed', -1, state.why or 'closed') end
if closed_until and closed_until > now then return refuse('closed', closed_until - now, state.why or 'closed') end

-- 2. A budget has no room, not even without the reservations of other calls.
local budgets = budgets_for(rules, {queue = queue, tenant = tenant, group = group, provider = provider, agent = agent})
local counters, fresh, blocked = {}, {}, nil
for _, budget in ipairs(budgets) do
  counters[#counters + 1] = budget.key
  local spent, reserved = amounts(budget.key)
  if spent == 0 and reserved == 0 or not budget.window_end then fresh[#fresh + 1] = budget end
  local holds = budget.on_full ~= 'warn' and usd ~= 0  -- what is free needs no room
  local turns_ms = budget.window_end and budget.window_end - now or -1
  if holds and not usd then
    return refuse('over', budget.ref, budget.on_full, turns_ms, 'unpriced', budget.limit, spent, reserved, 0)
  elseif holds and usd > budget.limit then
    return refuse('over', budget.ref, budget.on_full, turns_ms, 'never', budget.limit, spent, reserved, usd)
  elseif holds and spent + usd > budget.limit then
    return refuse('over', budget.ref, budget.on_full, turns_ms, 'full', budget.limit, spent, reserved, usd)
  elseif holds and spent + reserved + usd > budget.limit then
    blocked = blocked or budget.ref
  end
end
local job_key
if job_usd ~= '' or job_tokens ~= '' then
  job_key = gate_key('job', queue .. '/' .. job)
  local values = {numbers(job_key, 'spent', 'reserved', 'spent_tokens', 'reserved_tokens')}
  local max_usd, max_tokens = parse_int(job_usd), parse_int(job_tokens)
  if max_usd and not usd then
    return refuse('over', 'max_cost_usd', 'job', -1, 'unpriced', max_usd, values[1], values[2], 0)
  elseif max_usd and values[1] + values[2] + usd > max_usd then
    return refuse('over', 'max_cost_usd', 'job', -1, 'full', max_usd, values[1], values[2], usd)
  elseif max_tokens and values[3] + values[4] + tokens > max_tokens then
    return refuse('over', 'max_tokens', 'job', -1, 'full', max_tokens, values[3], values[4], tokens)
  end
end

-- 3. The call has to wait for its turn.
local function wait(ms, why)
  ms = math.floor(math.max(MIN_WAIT_MS, math.min(ms, 60000)))
  redis.call('ZADD', waiters, 'NX', now_text, call_id)
  redis.call('ZADD', seen, text(now + ms + SEEN_MS), call_id)
  redis.call('PEXPIRE', waiters, 300000)
  redis.call('PEXPIRE', seen, 300000)
  return {'wait', ms, why}
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', seen, '-inf', now_text, 'LIMIT', 0, 100)) do
  redis.call('ZREM', seen, id)
  redis.call('ZREM', waiters, id)
end
if blocked then return refuse('wait', MAX_WAIT_MS, blocked) end  -- not in line: others may have room
local ahead = redis.call('ZRANK', waiters, call_id) or redis.call('ZCARD', waiters)

local is_probe = closed_until ~= nil   -- the gate was closed, and nothing has shown that it is open again
if is_probe and state.probe and state.probe ~= call_id and (parse_int(state.probe_until) or 0) > now then
  return wait(MAX_WAIT_MS / 2, 'probe')
end
redis.call('ZREMRANGEBYSCORE', permits, '-inf', now_text)
local most = math.min(limits.max_concurrent or math.huge, parse_int(state.limit) or math.huge)
local free = most - redis.call('ZCARD', permits)
if free - ahead < 1 then
  return wait(math.min(MIN_WAIT_MS * (2 + math.max(0, ahead - free)), MAX_WAIT_MS), 'concurrency')
end

-- Rates are kept as the time at which all that was granted will have been worked off (GCRA, ITU-T I.371).
local function rate_wait(per_minute, at, queued)
  if not per_minute then return 0 end
  return math.max(at or 0, now) - now - BURST_MS + queued * 60000 / per_minute
end

local requests_at, tokens_at = tonumber(state.requests_at), tonumber(state.tokens_at)
local interval = limits.requests_per_minute and 60000 / limits.requests_per_minute
local wait_ms = math.max(
  rate_wait(limits.requests_per_minute, requests_at, ahead),
  rate_wait(limits.tokens_per_minute, tokens_at, 0))
if wait_ms > 0 then return wait(wait_ms, 'rate') end

-- 4. Granted: reserve everything.
if interval then redis.call('HSET', account_key, 'requests_at', math.max(requests_at or 0, now) + interval) end
if limits.tokens_per_minute then
  redis.call('HSET', account_key, 'tokens_at', math.max(tokens_at or 0, now) + tokens * 60000 / limits.tokens_per_minute)
end
if is_probe then redis.call('HSET', account_key, 'probe', call_id, 'probe_until', text(now + PROBE_MS)) end
forget_waiting()
redis.call('ZADD', accounts, now_text, account)
redis.call('HSET', account_key, 'provider', provider)
redis.call('ZADD', permits, text(now + lease_ms), call_id)
redis.call('ZADD', reservations, text(now + timeout_ms), call_id)
record = {
  state = 'granted', account = account, usd = usd or false, tokens = tokens, counters = counters, job = job_key or false,
  row = cjson.encode({queue, tenant, group, agent, provider, model}), day = day_text(now), at = now,
  expires_at = now + timeout_ms,
}
change_counters(record, 'reserved', usd or 0)
if job_key then
  add(job_key, 'reserved_tokens', tokens)
  redis.call('PEXPIRE', job_key, text(SPEND_MS))
end
for _, budget in ipairs(fresh) do keep_counter(budget.key, budget.window_end) end  -- others have their time to live
write_record(call_id, record)
return {'granted'}
