#!lua flags=no-writes,allow-oom
-- What refuses a call now, whatever it costs: its account, or a budget in which nothing is left. Reserves nothing.
-- include: gates
-- keys: policy
-- args: digest account provider agent queue tenant group usd
-- returns: undeclared (as `gate_acquire`) | granted | closed, ms (-1: until someone acts), why
-- | over, budget, on_full (hold | fail), why (full), limit, spent, reserved, what the job needs to go on, twice
--
-- `usd` is what a call costs in micro-dollars, as far as that is known: what the job needs, at most the limit.

local rules, is_damaged = read_policy()
if is_damaged or digest ~= '' and not rules.digests[digest] then return {'undeclared'} end
local state = read(gate_key('account', account), 'until', 'why', 'closed_at')
local closed_ms, why = closed_for(rules, account, provider, state)
if closed_ms ~= 0 then return {'closed', closed_ms, why} end
local attributes = {queue = queue, tenant = tenant, group = group, provider = provider, agent = agent}
for _, budget in ipairs(budgets_for(rules, attributes)) do
  local spent, reserved = amounts(budget.key)
  if budget.on_full ~= 'warn' and spent >= budget.limit then
    local needed = math.min(parse_int(usd) or 0, budget.limit)
    return {'over', budget.ref, budget.on_full, 'full', budget.limit, spent, reserved, needed, needed}
  end
end
return {'granted'}
