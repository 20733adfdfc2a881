-- Shared by the scripts of the gates: what applies, windows, counters, records of calls, bookings.
--
-- Money is in whole micro-dollars. The record of a call is JSON: `state` (granted | settled | estimated), `account`,
-- `usd` (reserved; false: unknown), `tokens` (reserved), `counters` (keys of the budgets' windows), `job`, `row`,
-- `day`, `expires_at`, `at`.

local MAX_CLOCK_STEP_MS = 60000
local gates_prefix = string.sub(policy, 1, -#'policy' - 1)

local function gate_key(kind, name) return gates_prefix .. kind .. ':' .. name end

-- JSON that this product wrote; nil for anything else.
local function decode(json)
  local is_json, value = pcall(cjson.decode, json)
  return is_json and type(value) == 'table' and value or nil
end

local policy_read = {}  -- in this call: the policy, and whether it is damaged

-- The policy that applies now: lists of `budgets`, and `providers`, `paused` and `digests` by name. And true if it is
-- missing, or another program wrote to it, although something was declared or set: `gate_declare` computes it.
local function read_policy()
  if not policy_read[1] then
    local json = redis.pcall('GET', policy)
    local rules = type(json) == 'string' and decode(json)
    if rules and type(rules.budgets) == 'table' and type(rules.providers) == 'table' and type(rules.paused) == 'table'
      and type(rules.digests) == 'table' then
      policy_read[1] = rules
    else
      policy_read[1] = {budgets = {}, providers = {}, paused = {}, digests = {}}
      policy_read[2] = json or redis.call('EXISTS', gates_prefix .. 'declared', gates_prefix .. 'overrides') > 0
    end
  end
  return policy_read[1], policy_read[2]
end

-- The account without what names its gate for the flex tier: what is said of an account holds for that gate, too.
local function whole_account(account) return (string.gsub(account, '/flex$', '')) end

-- What `rules` say of an account, or else of its provider; nil: nothing.
local function rule_for(rules, account, provider)
  return rules[account] or rules[whole_account(account)] or rules[provider]
end

-- The limits that the configuration has for an account, or else for its provider.
local function limits_for(rules, account, provider) return rule_for(rules.providers, account, provider) or {} end

local HOLD_PAUSED_MS = 900000  -- then the jobs of a paused account are held, so that they are seen
local PAUSED_MS = 30000        -- until then workers ask again so often: the pause may end at any time

-- True if `time` is a later time than now: the server's clock was set back. Clocks of replicas differ a little.
local function is_ahead(time) return (parse_int(time) or 0) > now + MAX_CLOCK_STEP_MS end

-- For how many ms an account takes no calls, and why. 0: it may take some, -1: none until someone acts. `state` has
-- its `until`, `why` and `closed_at`.
local function closed_for(rules, account, provider, state)
  local pause = rule_for(rules.paused, account, provider)
  if pause then
    local left = HOLD_PAUSED_MS - (now - pause.at)
    return left <= 0 and -1 or math.min(PAUSED_MS, left), 'paused'
  end
  local closed_until = parse_int(state['until']) or 0
  if closed_until == -1 then return -1, state.why or 'closed' end
  if is_ahead(state.closed_at) then closed_until = now end
  return math.max(0, closed_until - now), state.why or 'closed'
end

-- Days since 1970 of the first day of a month; `month` may be 13. Proleptic Gregorian calendar.
local function days_of_month(year, month)
  if month > 12 then year, month = year + 1, month - 12 end
  local y = month <= 2 and year - 1 or year
  local era = math.floor(y / 400)
  local year_of_era = y - era * 400
  local day_of_year = math.floor((153 * (month + (month > 2 and -3 or 9)) + 2) / 5)
  return era * 146097 + year_of_era * 365 + math.floor(year_of_era / 4) - math.floor(year_of_era / 100)
    + day_of_year - 719468
end

-- Year, month and day of a time in ms, UTC.
local function date_of(ms)
  local days = math.floor(ms / 86400000) + 719468
  local era = math.floor(days / 146097)
  local day_of_era = days - era * 146097
  local year_of_era = math.floor((day_of_era - math.floor(day_of_era / 1460) + math.floor(day_of_era / 36524)
    - math.floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year_of_era + math.floor(year_of_era / 4) - math.floor(year_of_era / 100))
  local shifted = math.floor((5 * day_of_year + 2) / 153)
  local day = day_of_year - math.floor((153 * shifted + 2) / 5) + 1
  local month = shifted < 10 and shifted + 3 or shifted - 9
  return year_of_era + era * 400 + (month <= 2 and 1 or 0), month, day
end

local function day_text(ms)
  return string.format('%04d-%02d-%02d', date_of(ms))
end

-- The window of a kind (hour | day | month | total) that a time is in: its name, and its end (nil: none).
local function window_of(kind, ms)
  if kind == 'total' then return 'total', nil end
  local year, month, day = date_of(ms)
  if kind == 'month' then
    return string.format('%04d-%02d', year, month), days_of_month(year, month + 1) * 86400000
  end
  local date = string.format('%04d-%02d-%02d', year, month, day)
  if kind == 'day' then return date, (math.floor(ms / 86400000) + 1) * 86400000 end
  local hour = math.floor(ms / 3600000)
  return string.format('%sT%02d', date, hour % 24), (hour + 1) * 3600000
end

-- The budgets that apply to a call with these attributes, as lists of `key` (of the counter of its window),
-- `limit`, `on_full`, `window`, `window_end`, and `ref`: the name, and the value of the scope if it has one.
local function budgets_for(rules, attributes)
  local found, windows = {}, {}
  for _, budget in ipairs(rules.budgets) do
    local value = budget.kind == 'all' and 'all' or attributes[budget.kind]
    if value and value ~= '' and (budget.value == '' or budget.value == value) then
      local window = windows[budget.window]
      if not window then
        window = {window_of(budget.window, now)}
        windows[budget.window] = window
      end
      local ref = budget.kind == 'all' and budget.name or budget.name .. '/' .. budget.kind .. ':' .. value
      found[#found + 1] = {
        ref = ref, kind = budget.kind, limit = budget.limit, on_full = budget.on_full, window = window[1], window_end = window[2],
        key = gate_key('spent', ref .. ':' .. window[1]),
      }
    end
  end
  return found
end

-- Fields of a counter, as numbers. Raises an error if another program wrote to it: nothing is granted then, until the
-- key is deleted.
local function numbers(key, ...)
  local values = redis.pcall('HMGET', key, ...)
  local is_damaged = values.err ~= nil
  for n = 1, #values do
    values[n] = tonumber(values[n] or 0)
    is_damaged = is_damaged or not values[n]
  end
  if is_damaged then error(redis.error_reply('WRONGTYPE another program wrote to ' .. key .. ': delete it')) end
  return unpack(values)
end

-- Spent and reserved micro-dollars of a counter.
local function amounts(key) return numbers(key, 'spent', 'reserved') end

-- Keep a counter for some time after its window, because a call may be settled late; one without an end, as long as
-- a day's spending. A counter that exists is listed under its window.
local function keep_counter(budget)
  local ttl = text(budget.window_end and budget.window_end - now + COUNTER_MS or SPEND_MS)
  if redis.call('PEXPIRE', budget.key, ttl) == 1 then
    local listed = gate_key('window', budget.window)
    redis.call('ZADD', listed, 0, budget.ref)
    redis.call('PEXPIRE', listed, ttl)
  end
end

local function add(key, field, by)
  if by ~= 0 then tolerate_damage(redis.pcall('HINCRBY', key, field, text(by))) end
end

-- Numbers of a row of spending, in this order.
local ROW = {'calls', 'faults', 'input_tokens', 'output_tokens', 'cached_tokens', 'usd', 'unpriced_calls', 'estimated'}

-- Numbers of a row of spending, with `changes` added; `stored` may be nil.
local function sums(stored, changes)
  local values, n = {}, 0
  for number in string.gmatch(stored or '', '%S+') do
    n = n + 1
    values[n] = tonumber(number)
  end
  for i, name in ipairs(ROW) do values[i] = text((values[i] or 0) + (changes[name] or 0)) end
  return table.concat(values, ' ')
end

local function add_to_sum(key, changes)
  local stored = redis.pcall('GET', key)
  if type(stored) == 'table' then stored = nil end  -- a key of another type: replaced
  redis.call('SET', key, sums(stored, changes), 'PX', text(SPEND_MS))
end

-- Add to the row of a day's spending, and to the sums of its queue in that day and of its group. `row` names queue,
-- tenant, group, agent, provider and model, as JSON.
local function add_to_row(day, row, changes)
  local names = cjson.decode(row)
  add_to_sum(gate_key('spend', day .. ':' .. names[1]), changes)
  if names[3] ~= '' then add_to_sum(gate_key('group', names[1] .. '/' .. names[3]), changes) end
  local key = gate_key('spend', day)
  local stored = redis.pcall('HGET', key, row)
  if type(stored) == 'table' then  -- a key of another type: replace it
    redis.call('UNLINK', key)
    stored = false
  end
  if not stored and redis.call('HLEN', key) >= MAX_SPEND_ROWS then
    row = 'other'
    stored = redis.call('HGET', key, row)
  end
  redis.call('HSET', key, row, sums(stored, changes))
  if not stored then redis.call('PEXPIRE', key, text(SPEND_MS)) end
end

-- Write the record of a call. It is kept for a day after its last change; until the call is booked it stays, however
-- long no script runs that books it.
local function write_record(id, record)
  local ttl = record.state == 'granted' and SPEND_MS or CALL_TTL_MS + math.max(0, record.expires_at - now)
  redis.call('SET', gate_key('call', id), cjson.encode(record), 'PX', text(ttl))
end

-- The record of a call, without counters that are gone with their windows; nil if there is none.
local function read_record(id)
  local json = redis.pcall('GET', gate_key('call', id))
  local record = type(json) == 'string' and decode(json) or {}
  if type(record.counters) ~= 'table' then return nil end
  if now - record.at > COUNTER_MS then
    local counters = record.counters
    record.counters = {}
    for _, key in ipairs(counters) do
      if redis.call('EXISTS', key) == 1 then table.insert(record.counters, key) end
    end
    record.job = record.job and redis.call('EXISTS', record.job) == 1 and record.job
  end
  return record
end

-- End the wait of a call for its turn, if it waits.
local function leave_line(account, id)
  local waiters = gate_key('waiters', account)
  if redis.call('ZREM', waiters, id) == 1 then redis.call('ZREM', waiters .. ':seen', id) end
end

local MAX_AGENTS = 50

-- List an account with its provider and agents, for operators, and so that a pause of the provider is known to be one
-- of the account. `state` has its provider and the field of the agent.
local function list_account(account, provider, agent, state)
  local key, agent_field = gate_key('account', account), 'agent:' .. agent
  redis.call('ZADD', accounts, now_text, account)
  if state.provider ~= provider then redis.call('HSET', key, 'provider', provider) end
  if agent ~= '' and not state[agent_field] and redis.call('HLEN', key) < MAX_AGENTS then
    redis.call('HSET', key, agent_field, now_text)
  end
end

-- Change the counters of a call: each budget's window, and the job's.
local function change_counters(record, field, by)
  for _, key in ipairs(record.counters) do add(key, field, by) end
  if record.job then add(record.job, field, by) end
end

-- End what a call holds: its reservation and its permit.
local function release_call(id, record)
  change_counters(record, 'reserved', -(record.usd or 0))
  if record.job then add(record.job, 'reserved_tokens', -record.tokens) end
  tolerate_damage(redis.pcall('ZREM', gate_key('permits', record.account), id))
  tolerate_damage(redis.pcall('ZREM', reservations, id))
end

-- Book the reservation of a call as spent, because what it took is not known.
local function estimate(id, record)  -- rare
  release_call(id, record)
  change_counters(record, 'spent', record.usd or 0)
  change_counters(record, 'estimated', record.usd or 0)
  if record.job then add(record.job, 'spent_tokens', record.tokens) end
  add_to_row(record.day, record.row, {
    calls = 1, usd = record.usd or 0, estimated = record.usd or 0, unpriced_calls = record.usd and 0 or 1,
  })
  record.state = 'estimated'
  write_record(id, record)
end

-- Estimate calls whose time is over without a settlement, at most `limit`; returns how many.
local function estimate_overdue(limit)
  local ids = redis.call('ZRANGEBYSCORE', reservations, '-inf', now_text, 'LIMIT', 0, limit)
  for _, id in ipairs(ids) do
    local record = read_record(id)
    if record and record.state == 'granted' then
      estimate(id, record)
    else
      redis.call('ZREM', reservations, id)
    end
  end
  return #ids
end
