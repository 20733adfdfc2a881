#!lua flags=no-writes,allow-oom
-- What is free in budgets, as `gate_acquire` names them.
-- include: gates
-- keys: policy
-- args:
-- each budget: ref
-- returns: per budget: limit, spent, reserved in micro-dollars (limit -1: no such budget now), ms until its window
-- turns (-1: it does not)

local by_name = {}
for _, budget in ipairs(read_policy().budgets or {}) do by_name[budget.name] = budget end
local results = {}
for n = 1, items do
  local ref = item(n)
  local name, kind, value = string.match(ref, '^([^/]+)/(%w+):(.*)$')
  local budget = by_name[name or ref]
  if budget and (budget.kind == 'all') == (name == nil) and (not kind or kind == budget.kind)
    and (budget.value == '' or budget.value == value) then
    local window, ends_at = window_of(budget.window, now)
    local spent, reserved = amounts(gate_key('spent', ref .. ':' .. window))
    results[n] = {budget.on_full == 'warn' and -1 or budget.limit, spent, reserved, ends_at and ends_at - now or -1}
  else
    results[n] = {-1, 0, 0, -1}
  end
end
return results
