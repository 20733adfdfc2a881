#!lua
-- Ask to send one call: a place among the account's calls, and a reservation in every budget that applies, or nothing.
-- include: gates
-- repeatable
-- keys: policy accounts reservations
-- args: digest call_id account provider agent model queue tenant group job usd tokens timeout_ms lease_ms job_usd job_tokens least_usd expected_usd
-- returns: undeclared (what the worker declared does not apply: it declares it again) | granted | used (it was settled:
-- another call needs another id) | wait, ms, why | closed, ms (-1: until someone acts), why
-- | over, budget, on_full (hold | fail | job), why (full | never | unpriced), limit, spent, reserved, what the call
-- needs, what the job needs
--
-- `usd` is the highest price of the call in micro-dollars (empty: unknown), `tokens` the most that it takes; `job_usd`
-- and `job_tokens` are the job's own limits (empty: none); `least_usd` is what the job needs at least, this call
-- included, of budgets that see all of it (0: not known); `expected_usd` is what it will probably take of those that
-- hold jobs, as `least_usd`: it is held before it begins unless what is left has room for that, or little is used.
-- Asked again with the same id, a granted call is granted, also if it was estimated meanwhile.
-- Calls that wait are served in the order in which they first asked.

local PROBE_MS = 30000
local MIN_WAIT_MS, MAX_WAIT_MS = 50, 1000
local MAX_IN_LINE_MS = 60000   -- a call that has to wait longer does not stay in line: its job makes room for others
local ASK_MS = 5000            -- how often a call in line asks at least
local BURST_MS = 250           -- of a rate: what an idle account may send at once, and how late a call may come to its turn
local SEEN_MS = 5000           -- a waiting call that does not ask again within this time lost its turn

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
local limits = limits_for(rules, account, provider)
local agent_field = 'agent:' .. agent

local function read_account()
  return read(account_key, 'until', 'why', 'provider', 'probe', 'probe_until', 'limit', 'ramp', 'requests_at',
    'tokens_at', 'closed_at', agent_field)
end

local state = read_account()
local has_limits = next(limits) ~= nil  -- times from before the clock was set back would keep calls waiting
if is_ahead(state.closed_at) or has_limits and is_ahead(redis.call('ZSCORE', accounts, account)) then
  redis.call('HDEL', account_key, 'closed_at', 'probe', 'probe_until', 'requests_at', 'tokens_at', 'shrunk_at',
    'refused_at')
  if (parse_int(state['until']) or 0) > now then redis.call('HSET', account_key, 'until', now_text) end
  redis.call('UNLINK', permits, waiters, seen)
  redis.call('ZADD', accounts, now_text, account)
  state = read_account()
end
usd, tokens = parse_int(usd), tonumber(tokens)

local function refuse(...)
  leave_line(account, call_id)
  return {...}
end

-- 1. The account is closed.
local closed_ms, why = closed_for(rules, account, provider, state)
if closed_ms ~= 0 then
  list_account(account, provider, agent, state)  -- no call of it may have been granted yet
  return refuse('closed', closed_ms, why)
end

-- 2. A budget has no room, not even without the reservations of other calls.
local budgets = budgets_for(rules, {queue = queue, tenant = tenant, group = group, provider = provider, agent = agent})
local counters, fresh, blocked = {}, {}, nil
for _, budget in ipairs(budgets) do
  counters[#counters + 1] = budget.key
  local spent, reserved = amounts(budget.key)
  if spent == 0 and reserved == 0 or not budget.window_end then fresh[#fresh + 1] = budget end
  local is_of_part = budget.kind == 'agent' or budget.kind == 'provider'  -- it need not see all of the job
  local of_job = math.max(usd or 0, is_of_part and 0 or tonumber(least_usd))
  local expected = not is_of_part and budget.on_full == 'hold' and tonumber(expected_usd) or 0
  -- What is free needs no room, unless it begins a job that is not.
  local holds = budget.on_full ~= 'warn' and (usd ~= 0 or expected > 0)
  -- No more than is left while little is used: such a budget takes any job.
  local needed = math.max(usd or 0, math.min(expected, math.floor((1 - LITTLE_SHARE) * budget.limit)))
  local why = holds and (not usd and 'unpriced' or of_job > budget.limit and 'never'
    or spent + needed > budget.limit and 'full')
  if why then
    if why == 'full' then of_job = math.max(of_job, expected) end
    return refuse('over', budget.ref, budget.on_full, why, budget.limit, spent, reserved, usd or 0, of_job)
  elseif holds and spent + reserved + needed > budget.limit then
    blocked = blocked or budget.ref
  end
end
local job_key
if job_usd ~= '' or job_tokens ~= '' then
  job_key = gate_key('job', queue .. '/' .. job)
  local values = {numbers(job_key, 'spent', 'reserved', 'spent_tokens', 'reserved_tokens')}
  local max_usd, max_tokens = parse_int(job_usd), parse_int(job_tokens)
  if max_usd and not usd then
    return refuse('over', 'max_cost_usd', 'job', 'unpriced', max_usd, values[1], values[2], 0, 0)
  elseif max_usd and values[1] + values[2] + usd > max_usd then
    return refuse('over', 'max_cost_usd', 'job', 'full', max_usd, values[1], values[2], usd, usd)
  elseif max_tokens and values[3] + values[4] + tokens > max_tokens then
    return refuse('over', 'max_tokens', 'job', 'full', max_tokens, values[3], values[4], tokens, tokens)
  end
end

-- 3. The call has to wait for its turn.
local function wait(ms, why)
  ms = math.floor(math.max(MIN_WAIT_MS, ms))
  if ms > MAX_IN_LINE_MS then return refuse('wait', ms, why) end
  redis.call('ZADD', waiters, 'NX', now_text, call_id)
  redis.call('ZADD', seen, text(now + math.min(ms, ASK_MS) + SEEN_MS), call_id)
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

local is_probe = state['until'] ~= nil   -- the gate was closed, and nothing has shown that it is open again
if is_probe and state.probe and state.probe ~= call_id and (parse_int(state.probe_until) or 0) > now then
  return wait(math.min(4 * MIN_WAIT_MS + 10 * ahead, MAX_WAIT_MS), state.why == 'no_capacity' and 'capacity' or 'probe')
end
redis.call('ZREMRANGEBYSCORE', permits, '-inf', now_text)
local most = limits.max_concurrent or math.huge
if not is_probe then most = math.min(most, parse_int(state.limit) or math.huge, parse_int(state.ramp) or math.huge) end
local free = most - redis.call('ZCARD', permits)
if free - ahead < 1 then
  return wait(math.min(MIN_WAIT_MS * (1 + math.max(0, ahead - free)), MAX_WAIT_MS), 'concurrency')
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
  rate_wait(limits.tokens_per_minute, tokens_at, ahead * tokens))  -- as if those ahead took as many
if wait_ms > 0 then return wait(wait_ms, 'rate') end

-- 4. Granted: reserve everything.
if interval then redis.call('HSET', account_key, 'requests_at', math.max(requests_at or 0, now) + interval) end
if limits.tokens_per_minute then
  redis.call('HSET', account_key, 'tokens_at', math.max(tokens_at or 0, now) + tokens * 60000 / limits.tokens_per_minute)
end
if is_probe then redis.call('HSET', account_key, 'probe', call_id, 'probe_until', text(now + PROBE_MS)) end
leave_line(account, call_id)
list_account(account, provider, agent, state)
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
for _, budget in ipairs(fresh) do keep_counter(budget) end  -- others have their time to live
write_record(call_id, record)
return {'granted'}
