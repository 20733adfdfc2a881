#!lua flags=no-writes,allow-oom
-- List what was spent from a budget in its current window, by the value of its scope: one page.
-- include: gates
-- keys: policy
-- args: name after limit
-- returns: when the window ends, in ms (-1: it does not), where the next page begins (empty: this was the last), then
-- per value: ref, and in micro-dollars: spent, reserved, estimated, overrun
--
-- `after` is the last ref of the page before. Values without spending are not listed.

local budget
for _, each in ipairs(read_policy().budgets) do
  if each.name == name then budget = each end
end
if not budget then return {-1, ''} end
local window, ends_at = window_of(budget.window, now)
local reply, refs = {ends_at or -1, ''}, {name}
if budget.kind ~= 'all' then
  local prefix = name .. '/' .. budget.kind .. ':'
  refs = {prefix .. budget.value}
  if budget.value == '' then
    refs = redis.call('ZRANGEBYLEX', gate_key('window', window), '(' .. (after ~= '' and after or prefix),
      '(' .. prefix .. '\255', 'LIMIT', 0, limit)
    if #refs == tonumber(limit) then reply[2] = refs[#refs] end
  end
end
for _, ref in ipairs(refs) do
  local row = redis.call('HMGET', gate_key('spent', ref .. ':' .. window), 'spent', 'reserved', 'estimated', 'overrun')
  local numbers = {ref}
  for n = 1, 4 do numbers[n + 1] = parse_int(row[n]) or 0 end
  reply[#reply + 1] = numbers
end
return reply
