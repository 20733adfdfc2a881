#!lua flags=allow-oom
-- Set a budget or pause a provider for all workers, over what they declare; or end that.
-- include: gates policy
-- repeatable
-- keys: policy declared overrides accounts changes
-- args: kind name value by reason detail
-- returns: set | reset | unchanged
--
-- `kind` is budget or pause; `value` is JSON, for a budget with its `rule`, or empty to end it. It gets `by`, `reason`
-- and the time in `at`; of a pause that is set again, the time of the first. The end of a pause also opens the accounts
-- that have the name, with their gates for the flex tier, or whose provider has it, whatever closed them. `detail` is
-- a budget in words, for the change that is noted.

local field = kind .. ':' .. name
local result = 'unchanged'
if value ~= '' then
  local override = cjson.decode(value)
  local earlier = kind == 'pause' and decode(redis.call('HGET', overrides, field) or '') or {}
  override.at, override.by, override.reason = tonumber(earlier.at) or now, by, cut(reason)
  redis.call('HSET', overrides, field, cjson.encode(override))
  result = 'set'
elseif redis.call('HDEL', overrides, field) == 1 then
  result = 'reset'
end
if kind == 'pause' and value == '' then
  for _, account in ipairs(redis.call('ZRANGE', accounts, 0, -1)) do
    local key = gate_key('account', account)
    if account == name or whole_account(account) == name or read(key, 'provider').provider == name then
      if redis.call('HDEL', key, 'until', 'why', 'probe', 'probe_until', 'pauses', 'faults') > 0 then
        redis.call('HSET', key, 'closed_at', now_text)  -- what calls from before report does not close it again
        result = 'reset'
      end
    end
  end
end
compile_policy()
if result ~= 'unchanged' then
  if kind == 'budget' then note_changes(result, 'budget:' .. name, {}, by, reason, detail)
  else note_changes(result == 'set' and 'pause' or 'resume', 'provider:' .. name, {}, by, reason) end
end
return result
