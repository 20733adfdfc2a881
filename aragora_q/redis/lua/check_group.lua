#!lua flags=allow-oom
-- Check a group: count its jobs by status, then compare the group's hash with these counts, and repair it.
-- include: groups
-- keys: stream_high stream_normal stream_low delayed completed failed cancelled counters events bell labels groups
-- args: group progress limit retention_ms repair
-- returns: more | changed | done, then with `more`: the progress, otherwise: codes of problems (see
-- doctor/report.py), separated by spaces
--
-- The group is not judged while one of its jobs has no status: that is another problem, and the job may still run.
-- A call counts at most `limit` jobs. After `more`, the next call continues with the `progress` that was returned,
-- at first empty. If the group has changed since the first call, nothing is judged: `changed`, begin again. A
-- group that fits into one call is always judged.

local STATUSES = {'pending', 'processing', 'retrying', 'held', 'completed', 'failed', 'cancelled'}
local LIVE = 4  -- the first ones

local key, members = group_key(group), members_key('group:' .. group)
local then_key = key .. ':then'
local kind = redis.call('TYPE', key).ok
local size = redis.pcall('ZCARD', members)
local problems = {}

-- Record a problem; returns true if it is to be repaired.
local function add_problem(code)
  problems[#problems + 1] = code
  return repair == '1'
end

local function reply(state)
  return {state, table.concat(problems, ' ')}
end

if kind ~= 'hash' and kind ~= 'none' then
  add_problem('group-wrong-type')
  return reply('done')
end
if type(size) == 'table' then return reply('done') end  -- a key of another type: reported as such

local state = read(key, 'created_at', 'sealed_at', 'ended_at', 'then', 'moves', unpack(STATUSES))
local version = text(parse_int(state.moves) or 0) .. '/' .. text(size)

local words = {}
for word in string.gmatch(progress, '%S+') do words[#words + 1] = word end
if words[1] and words[1] ~= version then return reply('changed') end
local first, counted = tonumber(words[2] or 0), {}
local after = first + tonumber(limit)
for n, status in ipairs(STATUSES) do counted[status] = tonumber(words[2 + n] or 0) end
for _, id in ipairs(redis.call('ZRANGE', members, text(first), text(after - 1))) do
  local status = status_of(queue_prefix .. 'job:' .. id, id)
  if counted[status] then counted[status] = counted[status] + 1 end
end
if after < size then
  words = {version, text(after)}
  for n, status in ipairs(STATUSES) do words[2 + n] = text(counted[status]) end
  return {'more', table.concat(words, ' ')}
end

local function check_record()
  local record = redis.call('TYPE', queue_prefix .. 'experiment:' .. group).ok
  if record ~= 'hash' and record ~= 'none' then add_problem('experiment-wrong-type') end
end

if size == 0 then
  check_record()
  local is_listed = redis.call('ZSCORE', groups, group)
  if (is_listed or redis.call('EXISTS', key, then_key) > 0) and add_problem('group-without-jobs') then
    get_groups().delete_group(group)
  end
  finish_call(retention_ms)
  return reply('done')
end

local fields, live, known = {}, 0, 0
for n, status in ipairs(STATUSES) do
  known = known + counted[status]
  if text(counted[status]) ~= (state[status] or '0') then
    fields[#fields + 1] = status
    fields[#fields + 1] = text(counted[status])
  end
  if n <= LIVE then live = live + counted[status] end
end

local function set_counts()
  redis.call('HSET', key, 'moves', text((parse_int(state.moves) or 0) + 1), unpack(fields))
end

if not state.created_at then
  if not add_problem('group-lost') then return reply('done') end
  -- Nothing counted the moves while the hash was missing: the counts of several calls are checked again.
  local oldest = redis.call('ZRANGE', members, 0, 0, 'WITHSCORES')[2]
  redis.call('HSET', key, 'created_at', oldest)
  redis.call('ZADD', groups, oldest, group)
  set_counts()
  return reply('changed')
end

-- Fields that must be numbers and are not: readers refuse the group.
local numbers, valid = {'created_at', 'sealed_at', 'ended_at', 'cancelled_at', 'purged'}, {}
for n, value in ipairs(redis.call('HMGET', key, unpack(numbers))) do
  if value and not parse_int(value) then
    valid[#valid + 1] = numbers[n]
    valid[#valid + 1] = numbers[n] == 'purged' and '0' or now_text
  end
end
if #valid > 0 and add_problem('group-invalid-numbers') then redis.call('HSET', key, unpack(valid)) end
if not redis.call('ZSCORE', groups, group) and add_problem('group-unlisted') then
  redis.call('ZADD', groups, text(parse_int(state.created_at) or now), group)
end
check_record()
if known < size then return reply('done') end
if #fields > 0 and add_problem('group-counts') then set_counts() end

local then_status = state['then']
local is_waiting = then_status == 'waiting' and get_groups().read_then(key) ~= nil
if then_status == 'lost' or then_status == 'waiting' and not is_waiting then
  add_problem('then-lost')
elseif then_status ~= 'waiting' and redis.call('EXISTS', then_key) == 1 and add_problem('then-left') then
  redis.call('UNLINK', then_key)
end

local has_ended = state.sealed_at and live == 0 or false
if has_ended and not state.ended_at then
  if add_problem('group-not-ended') then get_groups().end_group(key, then_status, retention_ms) end
elseif state.ended_at and not has_ended then
  if add_problem('group-ended') then
    redis.call('HDEL', key, 'ended_at')
    redis.call('PERSIST', key)
  end
else
  if has_ended and is_waiting and add_problem('then-waits') then get_groups().enqueue_then(key) end
  local has_ttl = redis.call('PTTL', key) >= 0
  if has_ended and not has_ttl and add_problem('group-never-expires') then
    redis.call('PEXPIRE', key, text(retention_ms + BACKSTOP_MS))
  elseif has_ttl and not has_ended and add_problem('group-expires') then
    redis.call('PERSIST', key)
  end
end
finish_call(retention_ms)
return reply('done')
