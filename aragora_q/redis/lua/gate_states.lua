#!lua flags=no-writes,allow-oom
-- The state of accounts: whether their gates are closed, their limits, their calls under way.
-- include: gates
-- keys: policy
-- args:
-- each account: account
-- returns: per account: ms until it opens (0: open, -1: when someone acts), why (also of one that waits for a probe),
-- provider, limit (-1: none), calls under way, calls that wait, faults in a row

local rules = read_policy()
local results = {}
for n = 1, items do
  local account = item(n)
  local state = read(gate_key('account', account), 'until', 'why', 'provider', 'limit', 'faults', 'closed_at')
  local ms, why = closed_for(rules, account, state.provider or '', state)
  results[n] = {
    ms, ms ~= 0 and why or state.why or '', state.provider or '', parse_int(state.limit) or -1,
    redis.call('ZCOUNT', gate_key('permits', account), '(' .. now_text, '+inf'),
    redis.call('ZCARD', gate_key('waiters', account)), parse_int(state.faults) or 0,
  }
end
return results
