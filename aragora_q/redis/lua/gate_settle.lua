#!lua flags=allow-oom
-- Book what calls took, end their reservations, and learn from them how their accounts are.
-- include: gates
-- repeatable
-- keys: policy accounts reservations
-- args:
-- each call: call_id account provider agent model queue tenant group job outcome usd input_tokens output_tokens cached_tokens retry_after_ms job_usd job_tokens max_usd max_tokens is_reported
-- returns: per call: settled | repeated | late (it had been estimated) | unknown (booked without a reservation)
--
-- `usd` is empty if the price is not known; then a call that may have been billed counts with its reservation, as
-- estimated; without a record of that, with `max_usd`. An acquire that arrives after the settlement gets no grant.
-- `retry_after_ms` is empty if the provider named no time; `is_reported` is 1 if the call was not to be asked for.

local NOT_BILLED = {
  rate_limited = true, overloaded = true, no_capacity = true, rejected = true, credit_exhausted = true, not_sent = true,
}
local REPLIED = {ok = true, unusable = true, refused = true, cut = true}
local BREAKER_FAULTS = 5
local COOLDOWN_MS, OUTAGE_MS, MAX_PAUSE_MS = 5000, 5000, 300000
local MIN_NAMED_MS, MAX_NAMED_MS = 1000, 30 * 86400000  -- a provider that names no time at all is not asked all the time
local SHRINK_MS = 15000
local CEILING_MS = 60000      -- time for which the limit stays below the number of calls at which the provider refused one
local FIRST_CALLS = 4         -- at once, after the probe, if no limit is known; each answer allows one more
local MAX_RAMP = 1000
local MAX_JITTER_MS = 500
local BREAKS = {
  rate_limited = true, overloaded = true, no_capacity = true, unavailable = true, timeout = true, credit_exhausted = true,
}

-- Close an account for the time that the provider names, or for a pause that doubles each time that a probe fails; plus
-- jitter. A time that has been set before is only made longer.
local function close(key, state, why, pause_ms, named_ms)
  local ms = named_ms and math.min(math.max(named_ms, MIN_NAMED_MS), MAX_NAMED_MS)
    or math.min(pause_ms * 2 ^ math.min(parse_int(state.pauses) or 0, 10), MAX_PAUSE_MS)
  local opens_at = now + math.floor(ms + math.min(ms / 10, MAX_JITTER_MS) * (now % 97) / 97) + 1
  redis.call('HSET', key, 'until', text(math.max(opens_at, parse_int(state['until']) or 0)), 'why', why,
    'closed_at', now_text)
  redis.call('HDEL', key, 'probe', 'probe_until', 'clean')
end

-- Learn from the outcome of a call that was granted at `granted_at`.
local function learn(account, provider, id, outcome, retry_after_ms, granted_at)
  local key = gate_key('account', account)
  local state = read(key, 'until', 'why', 'probe', 'faults', 'pauses', 'limit', 'ramp', 'clean', 'shrunk_at', 'refused',
    'refused_at', 'closed_at')
  local closed_until, is_probe = parse_int(state['until']), state.probe == id
  if closed_until == -1 then return end  -- until someone acts
  local is_closed = closed_until and closed_until > now
  -- A call from before the latest closure says nothing of what came afterwards: it opens nothing, and closes nothing
  -- that has opened since.
  local is_old = granted_at <= (parse_int(state.closed_at) or -1)
  if BREAKS[outcome] and is_old and not is_closed then return end
  if is_probe and BREAKS[outcome] then state.pauses = text(redis.call('HINCRBY', key, 'pauses', 1)) end
  if REPLIED[outcome] then
    if is_old then return end
    if state.faults then redis.call('HDEL', key, 'faults') end
    local limit, ramp, clean = parse_int(state.limit), parse_int(state.ramp), redis.call('HINCRBY', key, 'clean', 1)
    if closed_until and not is_closed then
      redis.call('HDEL', key, 'until', 'why', 'probe', 'probe_until', 'pauses')
      if ramp then redis.call('HSET', key, 'ramp', text(redis.call('ZCARD', gate_key('permits', account)) + FIRST_CALLS)) end
    elseif ramp then
      if ramp < (limit or MAX_RAMP) then
        redis.call('HINCRBY', key, 'ramp', 1)
      else
        redis.call('HDEL', key, 'ramp')
      end
    elseif limit and clean > limit then
      local ceiling = now - (parse_int(state.refused_at) or 0) < CEILING_MS and parse_int(state.refused) or math.huge
      local larger = math.min(limit + math.max(1, math.floor(limit / 20)), ceiling - 1)
      if larger > limit and redis.call('ZCARD', gate_key('permits', account)) + 1 >= limit * 0.75 then
        redis.call('HSET', key, 'limit', text(larger), 'clean', '1')
      end
    end
  elseif outcome == 'credit_exhausted' then
    redis.call('HSET', key, 'until', '-1', 'why', 'credit', 'closed_at', now_text)
    redis.call('HDEL', key, 'probe', 'probe_until')
  elseif outcome == 'rate_limited' or outcome == 'overloaded' or outcome == 'no_capacity' then
    close(key, state, outcome, COOLDOWN_MS, parse_int(retry_after_ms))
    local limits = limits_for(read_policy(), account, provider)
    if outcome == 'rate_limited' and limits.adaptive ~= false and not is_probe and not is_closed then
      local under_way = redis.call('ZCARD', gate_key('permits', account)) + 1
      -- A provider that has not answered since it was closed may refuse everything, however few calls there are.
      local limit = parse_int(state.limit)
      if (parse_int(state.clean) or 0) > 0 then
        limit = math.min(limit or under_way, under_way)
        if now - (parse_int(state.shrunk_at) or 0) < SHRINK_MS then
          limit = math.max(1, math.min(limit, under_way - 1))
        else
          limit = math.max(1, math.floor(limit * 0.8))
          redis.call('HSET', key, 'shrunk_at', now_text)
        end
        redis.call('HSET', key, 'limit', text(limit))
      end
      redis.call('HSET', key, 'refused', text(under_way), 'refused_at', now_text)
      if not (limit or limits.max_concurrent or limits.requests_per_minute) then
        redis.call('HSET', key, 'ramp', text(FIRST_CALLS))
      end
    end
  elseif outcome == 'unavailable' or outcome == 'timeout' then
    local faults = redis.call('HINCRBY', key, 'faults', 1)
    if is_probe or faults >= BREAKER_FAULTS and not is_closed then
      close(key, state, 'outage', OUTAGE_MS, parse_int(retry_after_ms))
    end
  elseif is_probe then  -- not sent, or rejected: it says nothing of the account, and another call is the probe
    redis.call('HDEL', key, 'probe', 'probe_until')
  end
end

-- What is booked of a call with this record, by name: nothing before its settlement, but for an estimate.
local function booked_of(record)
  if not record or record.state ~= 'estimated' then
    return {calls = 0, usd = 0, estimated = 0, unpriced_calls = 0, tokens = 0}
  end
  local usd = record.usd or 0
  return {calls = 1, usd = usd, estimated = usd, unpriced_calls = record.usd and 0 or 1, tokens = record.tokens}
end

-- The record of a call that none is known of: of today's windows, with nothing reserved.
local function new_record(account, provider, agent, model, queue, tenant, group, job, has_job_limits)
  local record = {
    account = account, usd = false, tokens = 0, counters = {}, at = now, expires_at = now, day = day_text(now),
    row = cjson.encode({queue, tenant, group, agent, provider, model}),
    job = has_job_limits and gate_key('job', queue .. '/' .. job) or false,
  }
  local budgets = budgets_for(read_policy(),
    {queue = queue, tenant = tenant, group = group, provider = provider, agent = agent})
  for n, budget in ipairs(budgets) do record.counters[n] = budget.key end
  return record, budgets
end

local RESULTS = {granted = 'settled', settled = 'repeated', estimated = 'late'}

local results = {}
for n = 1, items do
  local id, account, provider, agent, model, queue, tenant, group, job, outcome, usd, input_tokens, output_tokens,
    cached_tokens, retry_after_ms, job_usd, job_tokens, max_usd, max_tokens, is_reported = item(n)
  local record = read_record(id)
  local state = record and record.state
  results[n] = RESULTS[state] or 'unknown'
  if state ~= 'settled' then
    local before, budgets = booked_of(record), {}
    if not record then
      if outcome == 'not_sent' then
        leave_line(account, id)  -- it was not granted
      else
        list_account(account, provider, agent, read(gate_key('account', account), 'provider', 'agent:' .. agent))
      end
      record, budgets = new_record(account, provider, agent, model, queue, tenant, group, job,
        job_usd ~= '' or job_tokens ~= '')
    end
    if state == 'granted' then release_call(id, record) end
    local reserved, tokens = record.usd or nil, record.tokens
    if not state then reserved, tokens = parse_int(max_usd), tonumber(max_tokens) end
    local is_sent = outcome ~= 'not_sent'
    local known = is_sent and parse_int(usd) or NOT_BILLED[outcome] and 0 or nil
    local taken = input_tokens + output_tokens
    local is_counted = REPLIED[outcome] and tonumber(output_tokens) > 0  -- else some tokens may be missing
    if not known and not is_counted then taken = math.max(taken, tokens) end
    local booked = known or reserved or 0
    local estimated = known and 0 or booked
    change_counters(record, 'spent', booked - before.usd)
    change_counters(record, 'estimated', estimated - before.estimated)
    if known and known > (record.usd or 0) and is_reported ~= '1' then
      change_counters(record, 'overrun', known - (record.usd or 0))
    end
    if record.job then
      add(record.job, 'spent_tokens', taken - before.tokens)
      redis.call('PEXPIRE', record.job, text(SPEND_MS))
    end
    for _, budget in ipairs(budgets) do keep_counter(budget) end
    if is_sent or state == 'estimated' then
      add_to_row(record.day, record.row, {
        calls = (is_sent and 1 or 0) - before.calls, faults = (REPLIED[outcome] or not is_sent) and 0 or 1,
        input_tokens = tonumber(input_tokens), output_tokens = tonumber(output_tokens),
        cached_tokens = tonumber(cached_tokens), usd = booked - before.usd, estimated = estimated - before.estimated,
        unpriced_calls = (known or reserved) and -before.unpriced_calls or 1 - before.unpriced_calls,
      })
    end
    record.state = 'settled'
    write_record(id, record)  -- before anything else may fail
    if state == 'granted' then
      local said = input_tokens + output_tokens  -- of a call whose price is not known, too
      local unused = said > 0 and record.tokens - said or record.tokens - taken
      local tokens_at = unused ~= 0 and tonumber(read(gate_key('account', account), 'tokens_at').tokens_at)
      if tokens_at and tokens_at > now then  -- else the account is idle, and the unused tokens are worked off
        local limits = limits_for(read_policy(), account, provider)
        if limits.tokens_per_minute then
          redis.call('HSET', gate_key('account', account), 'tokens_at',
            tokens_at - unused * 60000 / limits.tokens_per_minute)
        end
      end
    end
    learn(account, provider, id, outcome, retry_after_ms, record.at)
  end
end
return results
