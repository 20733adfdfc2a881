#!lua flags=no-writes,allow-oom
-- What is free in budgets, as held jobs name them: as `gate_acquire` does, but a long name ends in `~` and a digest.
-- include: gates
-- keys: policy
-- args:
-- each budget: ref
-- returns: per budget: limit, spent, reserved in micro-dollars (limit -1: no such budget now), ms until its window
-- turns (-1: it does not)

local MAX_SEARCHED = 10000  -- values whose names begin alike

local by_name = {}
for _, budget in ipairs(read_policy().budgets) do by_name[budget.name] = budget end

-- The whole name that `ref` is short for, of the budget's one value or of those with spending; nil if it has none such.
local function whole_ref(ref, budget, window)
  if budget.kind == 'all' then return ref == budget.name and ref end
  local prefix = budget.name .. '/' .. budget.kind .. ':'
  local only = budget.value ~= '' and prefix .. budget.value
  local start, digest = string.match(ref, '^(.*)~(%x+)$')
  if ref == only or not (start or only) and string.sub(ref, 1, #prefix) == prefix then return ref end
  if not start then return end
  local names = only and {only} or redis.call('ZRANGEBYLEX', gate_key('window', window),
    '[' .. start, '[' .. start .. '\255', 'LIMIT', 0, MAX_SEARCHED)
  for _, found in ipairs(names) do
    if string.sub(found, 1, #prefix) == prefix and string.sub(redis.sha1hex(found), 1, #digest) == digest then
      return found
    end
  end
  return not only and ref
end

local results = {}
for n = 1, items do
  local ref = item(n)
  local budget = by_name[string.match(ref, '^[^/]+')]
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
