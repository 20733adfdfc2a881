#!lua flags=allow-oom
-- Compare counters with the calls that hold reservations in them; with `repair`, correct the counters.
-- include: gates policy
-- repeatable
-- keys: policy declared declarers overrides reservations
-- args: max_calls repair
-- each counter: key
-- returns: per counter: codes of problems, separated by blanks; `busy`: more than `max_calls` calls are under way, so
-- that reservations were not compared
--
-- Without counters, makes again what applies to all calls, because another program deleted it.

if items == 0 then compile_policy() end
local is_busy = redis.call('ZCARD', reservations) > tonumber(max_calls)
local usd, tokens = {}, {}
for _, id in ipairs(is_busy and {} or redis.call('ZRANGE', reservations, 0, -1)) do
  local record = read_record(id)
  if record and record.state == 'granted' then
    for _, key in ipairs(record.counters) do usd[key] = (usd[key] or 0) + (record.usd or 0) end
    if record.job then
      usd[record.job] = (usd[record.job] or 0) + (record.usd or 0)
      tokens[record.job] = (tokens[record.job] or 0) + record.tokens
    end
  end
end

local results = {}
for n = 1, items do
  local key = item(n)
  local codes, fields = {}, redis.pcall('HGETALL', key)
  if fields.err then
    codes[1] = 'counter-wrong-type'
    fields = {}
  end
  local exists = #fields > 0
  local values = {}
  for f = 1, #fields, 2 do
    values[fields[f]] = parse_int(fields[f + 1])
    if not values[fields[f]] then
      codes[1] = 'counter-invalid-numbers'
      if repair == '1' then redis.call('HDEL', key, fields[f]) end
    end
  end
  for field, expected in pairs(exists and not is_busy and {reserved = usd, reserved_tokens = tokens} or {}) do
    if (values[field] or 0) ~= (expected[key] or 0) then
      codes[#codes + 1] = 'counter-reserved'
      if repair == '1' then redis.call('HSET', key, field, text(expected[key] or 0)) end
    end
  end
  local ref, window = string.match(string.sub(key, #gates_prefix + 1), '^spent:(.*):([^:]+)$')
  if exists and ref and not redis.call('ZSCORE', gate_key('window', window), ref) then
    codes[#codes + 1] = 'counter-unlisted'
    if repair == '1' then
      redis.call('ZADD', gate_key('window', window), 0, ref)
      redis.call('PEXPIRE', gate_key('window', window), math.max(redis.call('PTTL', key), 1000))
    end
  end
  if exists and redis.call('PTTL', key) == -1 then
    codes[#codes + 1] = 'counter-never-expires'
    if repair == '1' then redis.call('PEXPIRE', key, text(SPEND_MS)) end
  end
  if is_busy and exists then codes[#codes + 1] = 'busy' end
  results[n] = table.concat(codes, ' ')
end
return results
