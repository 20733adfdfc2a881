#!lua flags=allow-oom
-- Check that the keys of each job agree, and repair what can be repaired without loss.
-- include: groups
-- keys: stream_high stream_normal stream_low delayed held completed failed cancelled workers bell counters events labels groups
-- args: retention_ms repair
-- each job: id
-- returns: per job: codes of its problems (see doctor/report.py), separated by spaces
--
-- One call sees a consistent state, so no problem is a transition in progress. With `repair` 1, every
-- problem that `report.PROBLEMS` calls repairable is repaired in the same call.

local ttl = tonumber(retention_ms) + BACKSTOP_MS
local indexes = {completed = completed, failed = failed, cancelled = cancelled}
local LIVE = {pending = true, processing = true, retrying = true, held = true}
local problems

-- Record a problem; returns true if it is to be repaired.
local function add_problem(code)
  problems[#problems + 1] = code
  return repair == '1'
end

local function parts_of(job)
  local parts = {}
  for _, part in ipairs({'payload', 'result', 'history', 'journal'}) do
    local key = job .. ':' .. part
    if redis.call('EXISTS', key) == 1 then parts[part] = key end
  end
  return parts
end

local function has_part_without_ttl(parts)
  for _, key in pairs(parts) do
    if redis.call('PTTL', key) < 0 then return true end
  end
  return false
end

local function expire_all(job, parts)
  redis.call('PEXPIRE', job, ttl)
  for _, key in pairs(parts) do redis.call('PEXPIRE', key, ttl) end
end

-- The labels of a job that is gone go with its last place. If it is not known what its group counted it as,
-- check_group counts again.
local function check_missing_hash(job, id, parts, job_labels)
  local is_listed, last_status = false, nil
  if redis.call('ZSCORE', delayed, id) then
    if parts.payload then
      if add_problem('delayed-without-hash') then redis.call('HSET', job, 'status', 'pending', 'created_at', now) end
      return
    end
    is_listed = true
    if add_problem('delayed-without-data') then redis.call('ZREM', delayed, id) end
  end
  local held_at = redis.call('ZSCORE', held, id)
  if held_at then
    if parts.payload then
      if add_problem('held-without-hash') then
        redis.call('HSET', job, 'status', 'held', 'created_at', now, 'held_from', 'pending', 'held_at', held_at,
          'hold_cause', 'person', 'hold_by', '')
      end
      return
    end
    is_listed = true
    if add_problem('listed-without-data') then redis.call('ZREM', held, id) end
  end
  for status, index in pairs(indexes) do
    if redis.call('ZSCORE', index, id) then
      is_listed, last_status = true, status
      if add_problem('listed-without-data') then redis.call('ZREM', index, id) end
    end
  end
  if has_part_without_ttl(parts) and add_problem('parts-without-hash') then expire_all(job, parts) end
  if not job_labels or redis.call('EXISTS', job) == 1 then return end
  local is_gone = not is_listed and not next(parts)
  if is_gone and add_problem('labels-without-job') or is_listed and repair == '1' then
    get_groups().unlabel({id, job_labels})
    moved(id, last_status, 'purged', job_labels)
  end
end

local function check_labels(job, id, job_labels)
  local missing = {}
  for label in listed_labels(job_labels) do
    if not redis.pcall('ZSCORE', members_key(label), id) then missing[#missing + 1] = label end
  end
  if #missing > 0 and add_problem('unlisted-label') then
    local state = read(job, 'created_at', 'entry')
    local at = parse_int(state.created_at) or state.entry and entry_ms(state.entry) or now
    for _, label in ipairs(missing) do redis.call('ZADD', members_key(label), text(at), id) end
  end
end

local function check_terminal(job, id, state, parts)
  for status, index in pairs(indexes) do
    local listed = redis.call('ZSCORE', index, id)
    if status == state.status and not listed and add_problem('unlisted') then redis.call('ZADD', index, now, id) end
    if status ~= state.status and listed and add_problem('listed-twice') then redis.call('ZREM', index, id) end
  end
  for _, index in ipairs({delayed, held}) do
    if redis.call('ZSCORE', index, id) and add_problem('listed-twice') then redis.call('ZREM', index, id) end
  end
  if (state.entry or state.lease_ms) and add_problem('keeps-lease') then redis.call('HDEL', job, 'entry', 'lease_ms') end
  if state.status == 'completed' and not parts.result then add_problem('result-lost') end
  if (redis.call('PTTL', job) < 0 or has_part_without_ttl(parts)) and add_problem('never-expires') then expire_all(job, parts) end
end

local function has_recent_heartbeat(state)
  local heartbeat = redis.call('ZSCORE', workers, owner_of(state) or '')
  return heartbeat and now - heartbeat < (parse_int(state.lease_ms) or 0)
end

local function requeue_entry(job, id, stream, state, payload)
  if state.status == 'processing' then moved(id, 'processing', 'retrying') end
  drop_entry(stream, state.entry)
  redis.call('HSET', job, 'status', state.status == 'processing' and 'retrying' or state.status,
    'entry', append(stream, id, payload or ''))
  redis.call('HDEL', job, 'lease_ms', 'lease_owner')
end

-- The lane that has the job's entry, which may differ from its priority's lane, and the payload there.
local function lane_of(id, state)
  for _, stream in ipairs({lane_stream(state.priority), stream_high, stream_normal, stream_low}) do
    local entry_id, payload = job_of(state.entry and fields_of(stream, state.entry) or {})
    if entry_id == id then return stream, payload end
  end
end

local function check_location(job, id, state, parts)
  local stream, payload = lane_of(id, state)
  local due = redis.call('ZSCORE', delayed, id)
  if stream then
    if stream ~= lane_stream(state.priority) and add_problem('other-lane') then
      redis.call('HSET', job, 'priority', priority_of(stream))
    end
    if due and add_problem('waits-twice') then redis.call('ZREM', delayed, id) end
    if parts.payload and add_problem('payload-twice') then redis.call('DEL', parts.payload) end
    local pending = redis.pcall('XPENDING', stream, GROUP, state.entry, state.entry, 1)
    if not pending.err and #pending == 0 and is_up_to(state.entry, group_info(stream)['last-delivered-id']) and not has_recent_heartbeat(state) then
      if add_problem('delivered-without-owner') then requeue_entry(job, id, stream, state, payload) end
    end
  elseif state.status == 'processing' then
    if not parts.payload then add_problem('entry-lost')
    elseif not has_recent_heartbeat(state) and add_problem('not-queued') then
      redis.call('HSET', job, 'status', 'retrying')
      moved(id, 'processing', 'retrying')
      redis.call('HDEL', job, 'entry', 'lease_ms', 'lease_owner')
      redis.call('ZADD', delayed, now, id)
    end
  elseif not parts.payload then
    add_problem('payload-lost')
  elseif state.entry or not due then
    if add_problem('not-queued') then
      redis.call('HDEL', job, 'entry')
      redis.call('ZADD', delayed, now, id)
    end
  end
end

local function check_held(job, id, state, parts)
  local stream, payload = lane_of(id, state)
  if (stream or redis.call('ZSCORE', delayed, id)) and add_problem('held-in-lane') then
    if payload then redis.call('SET', job .. ':payload', payload, 'NX') end
    if stream then drop_entry(stream, state.entry) end
    redis.call('HDEL', job, 'entry', 'lease_ms')
    redis.call('ZREM', delayed, id)
  elseif not (parts.payload or payload) then
    add_problem('payload-lost')
  end
  if not redis.call('ZSCORE', held, id) and add_problem('held-unlisted') then
    redis.call('ZADD', held, text(parse_int(state.held_at) or now), id)
  end
end

local function check_live(job, id, state, parts)
  for _, index in pairs(indexes) do
    if redis.call('ZSCORE', index, id) and add_problem('listed-as-ended') then redis.call('ZREM', index, id) end
  end
  if parts.result then
    if add_problem('stale-result') then redis.call('UNLINK', parts.result) end
    parts.result = nil
  end
  local expires = redis.call('PTTL', job) >= 0
  for _, key in pairs(parts) do expires = expires or redis.call('PTTL', key) >= 0 end
  if expires and add_problem('expires-while-live') then
    redis.call('PERSIST', job)
    for _, key in pairs(parts) do redis.call('PERSIST', key) end
  end
  if state.status == 'held' then
    check_held(job, id, state, parts)
  else
    if redis.call('ZSCORE', held, id) and add_problem('listed-as-held') then redis.call('ZREM', held, id) end
    check_location(job, id, state, parts)
  end
end

-- Fields that must be numbers and are not: readers refuse the job, scripts treat the fields as missing.
local function check_numbers(job)
  local names = {'attempts', 'crashes', 'max_attempts', 'fence', 'priority', 'lease_ms', 'created_at', 'started_at',
    'held_at', 'held_due', 'hold_asked', 'hold_until', 'hold_usd'}
  local invalid = {}
  for n, value in ipairs(redis.call('HMGET', job, unpack(names))) do
    if value and not parse_int(value) then invalid[#invalid + 1] = names[n] end
  end
  if #invalid > 0 and add_problem('invalid-numbers') then redis.call('HDEL', job, unpack(invalid)) end
end

local reply, known_labels = {}, labels_of_items()
for n = 1, items do
  local job, id = item(n)
  problems = {}
  local kind = redis.call('TYPE', job).ok
  if kind ~= 'hash' and kind ~= 'none' then
    add_problem('wrong-type')
  else
    local state = read(job, 'status', 'entry', 'priority', 'lease_ms', 'lease_owner', 'held_at')
    local parts = parts_of(job)
    if kind == 'hash' then check_numbers(job) end
    if not state.status then
      check_missing_hash(job, id, parts, known_labels[n])
    elseif indexes[state.status] then
      check_terminal(job, id, state, parts)
    elseif LIVE[state.status] then
      check_live(job, id, state, parts)
    else
      add_problem('unknown-status')
    end
    if known_labels[n] and redis.call('EXISTS', job) == 1 then check_labels(job, id, known_labels[n]) end
  end
  reply[n] = table.concat(problems, ' ')
end
finish_call(retention_ms)
return reply
