#!lua flags=no-writes,allow-oom
-- What is free in budgets, as `gate_acquire` names them.
-- include: gates
-- keys: policy
-- args:
-- each budget: ref
-- returns: per budget: limit, spent, reserved in micro-dollars (limit -1: no such budget now), ms until its window
-- turns (-1: it does not)
--
-- A job keeps at most MAX_HOLD_BY_BYTES of the name of what holds it; a name of this length may have been cut.

local by_name = {}
for _, budget in ipairs(read_policy().budgets or {}) do by_name[budget.name] = budget end

-- The name that `ref` is, or is the beginning of: of the budget's one value, or of the first one with spending.
local function whole_ref(ref, budget, window)
  local is_cut = #ref >= MAX_HOLD_BY_BYTES
  if budget.kind == 'all' then return ref == budget.name and ref end
  local prefix = budget.name .. '/' .. budget.kind .. ':'
  if string.sub(ref, 1, #prefix) ~= prefix then return end
  if budget.value ~= '' then
    local only = prefix .. budget.value
    return (ref == only or is_cut and string.sub(only, 1, #ref) == ref) and only
  end
  if not is_cut then return ref end
  local found = redis.call('ZRANGEBYLEX', gate_key('window', window), '[' .. ref, '[' .. ref .. '\255', 'LIMIT', 0, 1)
  return found[1] or ref
end

local results = {}
for n = 1, items do
  local ref = item(n)
  local budget = by_name[(parts_of(ref))]
  local window, ends_at
  if budget and budget.on_full ~= 'warn' then window, ends_at = window_of(budget.window, now) end
  local whole = window and whole_ref(ref, budget, window)
  if whole then
    local spent, reserved = amounts(gate_key('spent', whole .. ':' .. window))
    results[n] = {budget.limit, spent, reserved, ends_at and ends_at - now or -1}
  else
    results[n] = {-1, 0, 0, -1}
  end
end
return results
