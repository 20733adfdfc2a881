#!lua flags=no-writes,allow-oom
-- The state of accounts: whether their gates are closed, their limits, their calls under way.
-- include: gates
-- keys: policy
-- args:
-- each account: account
-- returns: per account: ms until it opens (0: open, -1: when someone acts), why, provider, limit (-1: none), calls
-- under way, calls that wait, faults in a row

local HOLD_PAUSED_MS = 900000
local rules = read_policy()
local results = {}
for n = 1, items do
  local account = item(n)
  local state = read(gate_key('account', account), 'until', 'why', 'provider', 'limit', 'faults')
  local ms, why = parse_int(state['until']) or 0, state.why or ''
  if ms > 0 then ms = math.max(0, ms - now) end
  local pause = rules.paused[account] or rules.paused[state.provider or '']
  if pause then
    ms = now - pause.at >= HOLD_PAUSED_MS and -1 or HOLD_PAUSED_MS - (now - pause.at)
    why = 'paused'
  end
  results[n] = {
    ms, why, state.provider or '', parse_int(state.limit) or -1,
    redis.call('ZCOUNT', gate_key('permits', account), '(' .. now_text, '+inf'),
    redis.call('ZCARD', gate_key('waiters', account)), parse_int(state.faults) or 0,
  }
end
return results
