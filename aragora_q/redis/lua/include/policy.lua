-- Shared by the scripts that change what applies: what workers declare, and what operators set over it.

-- What a declaration or an override says of a budget, if it is complete: another program may have written either.
local function rule_of(rule)
  if type(rule) ~= 'table' or type(rule.limit) ~= 'number' then return end
  for _, field in ipairs({'kind', 'value', 'window', 'on_full'}) do
    if type(rule[field]) ~= 'string' then return end
  end
  return rule
end

-- The entries of a table by name; none if it is something else.
local function entries_of(value) return pairs(type(value) == 'table' and value or {}) end

-- Compute the policy: of the declarations of live workers, the lowest limits count; an override replaces them.
local function compile_policy()
  local budgets, providers, paused, digests, texts = {}, {}, {}, {}, {}
  local ranks, strict = {}, {}
  local rows = redis.call('HGETALL', declared)
  for n = 2, #rows, 2 do texts[rows[n]] = true end  -- most workers declare the same
  for json in pairs(texts) do
    local declaration = decode(json) or {}
    digests[redis.sha1hex(json)] = true
    for name, budget in entries_of(declaration.budgets) do
      budget = rule_of(budget)
      if budget then
        local rank = string.format('%016d %s', budget.limit, json)  -- of equal limits, always the same one
        if not ranks[name] or rank < ranks[name] then budgets[name], ranks[name] = budget, rank end
        if budget.on_full ~= 'warn' then strict[name] = strict[name] == 'fail' and 'fail' or budget.on_full end
      end
    end
    for name, limits in entries_of(declaration.providers) do
      local lowest = providers[name] or {}
      for field, limit in entries_of(limits) do
        if type(limit) == 'number' then lowest[field] = math.min(limit, lowest[field] or math.huge) end
        if field == 'adaptive' and limit == false then lowest.adaptive = false end
      end
      providers[name] = lowest
    end
  end
  for name, on_full in pairs(strict) do budgets[name].on_full = on_full end  -- a budget warns only if all say so
  rows = redis.call('HGETALL', overrides)
  for n = 1, #rows, 2 do
    local kind, name = string.match(rows[n], '^(%w+):(.*)$')
    local value = decode(rows[n + 1])
    if kind == 'budget' and value then budgets[name] = rule_of(value.rule) or budgets[name] end
    if kind == 'pause' and value and type(value.at) == 'number' then paused[name] = {at = value.at} end
  end
  local list = {}
  for name, budget in pairs(budgets) do
    budget.name = name
    list[#list + 1] = budget
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  if #rows == 0 and not next(digests) then
    redis.call('DEL', policy)
  else
    redis.call('SET', policy, cjson.encode({budgets = list, providers = providers, paused = paused, digests = digests}))
  end
end

-- Forget what workers declared that have not declared it again in time; returns how many.
local function forget_silent()
  local silent = redis.call('ZRANGEBYSCORE', declarers, '-inf', now_text, 'LIMIT', 0, 100)
  for _, worker_id in ipairs(silent) do
    redis.call('HDEL', declared, worker_id)
    redis.call('ZREM', declarers, worker_id)
  end
  return #silent
end
