#!lua flags=allow-oom
-- Start up to `limit` waiting jobs: PROCESSING, fence and attempts raised, lease begun.
-- include: groups
-- rare: count_in_groups
-- keys: stream_high stream_normal stream_low delayed failed counters events control worker bell labels groups
-- args: job_prefix worker_id lease_owner instance_id lease_ms limit max_bytes first_lane closed max_attempts max_crashes retention_ms
-- returns: ok | empty (no job was waiting) | paused | unregistered, number of jobs that were put off, the time; then per
-- started job: id, payload, and, in one text, because each element of a reply costs time: fence, attempts, max_attempts,
-- crashes, created_at, priority, when it was added to its lane, 1 if it was started before, else 0, length of its
-- trace context, that context, labels
--
-- Reads `first_lane` (high | normal | low) first, then the others. Stops when the payloads that were read
-- have max_bytes, so that the reply stays bounded whatever clients enqueue.
-- `closed` is JSON: ms for which an agent's provider takes no calls, by the agent's name and the service tier that a job
-- names ('': none); empty: all providers take calls. Jobs whose payload names such an agent are put off, uncharged:
-- delayed until the provider may take calls, and from then on one every RETURN_MS.
-- Touches undeclared keys: those of the jobs found in entries. They share the slot of the declared ones;
-- while a cluster migrates the slot, the guard key (keys.py) keeps every script from beginning.

local QUARANTINE_MS = 1000
local MAX_QUARANTINE_MS = 30000
local MAX_CHUNK = 4  -- entries read at once, and the most payloads that are read beyond max_bytes
local MAX_PUT_OFF = 100
local RETURN_MS, MAX_RETURN_MS = 5, 60000
local MAX_SEARCHED_BYTES = 262144  -- a job with a larger payload is started: its calls wait, or put it off

if redis.pcall('HGET', worker, 'instance_id') ~= instance_id then return {'unregistered', 0, now} end
if redis.call('HGET', control, 'paused') then return {'paused', 0, now} end

local order = first_lane == 'high' and {stream_high, stream_normal, stream_low}
  or first_lane == 'low' and {stream_low, stream_normal, stream_high}
  or {stream_normal, stream_high, stream_low}

local capacity, bytes_left = tonumber(limit), tonumber(max_bytes)
local closed_ms = closed ~= '' and cjson.decode(closed) or {}
local put_off = 0
-- Of each entry that was read: id and fields, lane, job id (false: malformed), payload, for how long it is put off (false:
-- it is not). Five lists, because a table for each entry costs as much as a command.
local entries, lanes, ids, payloads, waits = {}, {}, {}, {}, {}

-- The longest time in ms for which an agent that a payload names is closed; nil: none is.
local function closed_ms_of(payload)
  if #payload > MAX_SEARCHED_BYTES then return nil end
  local names_one = false
  for name in pairs(closed_ms) do names_one = names_one or string.find(payload, name, 1, true) ~= nil end
  if not names_one then return nil end
  local is_json, job = pcall(cjson.decode, payload)
  if not is_json or type(job) ~= 'table' then return nil end
  local tier = type(job.service_tier) == 'string' and job.service_tier or ''
  local longest
  for _, names in ipairs({job.agents or false, job.escalate or false, {job.judge}}) do
    for _, name in ipairs(type(names) == 'table' and names or {}) do
      local ms = (closed_ms[name] or {})[tier]
      if ms then longest = math.max(longest or 0, ms) end
    end
  end
  return longest
end

local function read_new(stream, max_entries)
  local reply = redis.pcall('XREADGROUP', 'GROUP', GROUP, worker_id, 'COUNT', max_entries, 'STREAMS', stream, '>')
  if reply and reply.err and string.find(reply.err, 'NOGROUP', 1, true) then
    create_group(stream)
    reply = redis.call('XREADGROUP', 'GROUP', GROUP, worker_id, 'COUNT', max_entries, 'STREAMS', stream, '>')
  end
  if reply and reply.err then return redis.error_reply(reply.err) end
  return reply and reply[1][2] or {}
end

-- Read a lane in small chunks, because the size of a payload is known only after it was read.
local function read_lane(stream)
  local chunk = 1
  while capacity > 0 and bytes_left > 0 and put_off < MAX_PUT_OFF do
    local wanted = math.min(chunk, capacity, MAX_PUT_OFF - put_off)
    local rows = read_new(stream, wanted)
    if rows.err then return rows end
    local largest = 1
    for r = 1, #rows do
      local n, id, payload = #entries + 1, job_of(rows[r][2])
      local is_job = id and payload
      entries[n], lanes[n], ids[n], payloads[n] = rows[r], stream, is_job and id or false, payload or false
      waits[n] = is_job and closed ~= '' and closed_ms_of(payload) or false
      if is_job then
        bytes_left = bytes_left - #payload
        if #payload > largest then largest = #payload end
      end
      if waits[n] then put_off = put_off + 1 else capacity = capacity - 1 end
    end
    if #rows < wanted then return end
    chunk = math.max(1, math.min(MAX_CHUNK, math.floor(bytes_left / largest)))
  end
end

for _, stream in ipairs(order) do
  local failure = read_lane(stream)
  if failure then return failure end
end

-- What is known of a job, by field. A key of another type where the hash should be is deleted.
local function state_of(job)
  local fields, state = redis.pcall('HGETALL', job), {}
  if fields.err then redis.call('UNLINK', job) end
  for f = 1, #fields, 2 do state[fields[f]] = fields[f + 1] end
  return state
end

-- True if an entry is a copy: its job has ended, or waits in another entry, or is delayed.
local function is_copy(state, entry_id)
  local other = state.entry
  return state.status and state.status ~= 'processing' and other ~= entry_id
    and not (other and not string.find(other, '^%d+%-%d+$'))  -- not an entry id: ignore it
end

-- True if the job's next crash would be its last: it may be a poison pill, or the victim of one that ran
-- in the same worker. A worker runs one such job at a time, so that a poison pill does not fail others.
local function needs_quarantine(crashes)
  return crashes > 0 and crashes + 1 >= tonumber(max_crashes)
end

local starts_quarantined_job = false

local function runs_quarantined_job()
  if starts_quarantined_job then return true end
  local id = redis.call('HGET', worker, 'quarantined')
  local state = id and read(job_prefix .. id, 'status', 'lease_owner', 'crashes') or {}
  return state.status == 'processing' and state.lease_owner == lease_owner
    and needs_quarantine(parse_int(state.crashes) or 0)  -- otherwise it is another job with this id
end

-- Move the entry `n` to the delayed index; its job's status does not change.
local function delay(n, job, state, due)
  local entry_id, stream = entries[n][1], lanes[n]
  redis.call('ZADD', delayed, text(due), ids[n])
  redis.call('SET', job .. ':payload', payloads[n])
  redis.call('HDEL', job, 'entry')
  redis.call('HSETNX', job, 'created_at', entry_ms(entry_id))
  if not state.status then  -- without a hash
    redis.call('HSET', job, 'status', 'pending', 'priority', priority_of(stream))
  end
  drop_entry(stream, entry_id)
end

local last_return = {}  -- of the jobs that were put off, by the time at which the provider may take calls

-- Put a job off. Those that wait for the same time return one after the other, also those of several calls.
local function put_off_job(n, job, state)
  local opens_at = now + waits[n]
  local due = last_return[opens_at]
  due = due and due + RETURN_MS
    or opens_at + RETURN_MS * redis.call('ZCOUNT', delayed, text(opens_at), text(opens_at + MAX_RETURN_MS))
  last_return[opens_at] = math.min(due, opens_at + MAX_RETURN_MS)
  delay(n, job, state, last_return[opens_at])
end

-- Set a job aside, each time for longer while another one runs, so that many of them do not circulate.
local function delay_quarantined(n, job, state)
  local times = (parse_int(state.set_aside) or 0) + 1
  if starts_quarantined_job then times = 1 else redis.call('HSET', job, 'set_aside', text(times)) end
  delay(n, job, state, now + math.min(QUARANTINE_MS * 2 ^ (times - 1), MAX_QUARANTINE_MS))
end

local reply, started, status_before, dead_letters, is_started = {'ok', 0, now}, {}, {}, {}, {}

-- Start the job of the entry `n`. Missing or invalid fields of its hash are restored: the entry alone is enough.
local function start(n, job, state, crashes, is_suspect)
  local id, entry_id, stream = ids[n], entries[n][1], lanes[n]
  -- The fence follows the clock, so that it rises even if a failover or a purge lost its last value.
  local fence = state.fence and text(math.max((parse_int(state.fence) or 0) + 1, now)) or now_text
  local attempts = state.attempts and text((parse_int(state.attempts) or 0) + 1) or '1'
  local added_at = string.match(entry_id, '^%d+')
  local created_at = parse_int(state.created_at) and state.created_at or added_at
  redis.call('HSET', job, 'status', 'processing', 'fence', fence, 'attempts', attempts,
    'lease_owner', lease_owner, 'lease_ms', lease_ms, 'created_at', created_at, 'started_at', now_text)
  local attempts_limit, priority = state.max_attempts, state.priority
  if not parse_int(attempts_limit) or state.entry ~= entry_id then
    attempts_limit = parse_int(attempts_limit) and attempts_limit or max_attempts
    redis.call('HSET', job, 'max_attempts', attempts_limit, 'entry', entry_id)
  end
  if (priority or stream ~= stream_normal) and (lane_stream(priority) ~= stream or priority and not parse_int(priority)) then
    priority = priority_of(stream)
    redis.call('HSET', job, 'priority', priority)
  end
  if attempts ~= '1' or state.fence or not state.entry then note_more(job) end  -- it ran before, or its hash was lost
  if is_suspect then
    redis.call('HSET', worker, 'quarantined', id)
    starts_quarantined_job = true
  end
  local s = #started + 1
  started[s], status_before[s], is_started[id] = id, state.status or 'pending', true
  reply[3 * s + 1], reply[3 * s + 2] = id, payloads[n]
  reply[3 * s + 3] = fence .. ' ' .. attempts .. ' ' .. attempts_limit .. ' ' .. (crashes > 0 and text(crashes) or '0') .. ' '
    .. created_at .. ' ' .. (priority or '0') .. ' ' .. added_at .. (state.fence and ' 1 ' or ' 0 ')
    .. (state.trace and #state.trace <= MAX_TRACE_BYTES and #state.trace .. ' ' .. state.trace or '0 ')
end

for n = 1, #entries do
  local id, stream, entry_id = ids[n], lanes[n], entries[n][1]
  local job = id and job_prefix .. id
  local state = job and state_of(job)
  local crashes = state and parse_int(state.crashes) or 0
  local is_suspect = crashes > 0 and needs_quarantine(crashes)
  if not state then
    dead_letters[#dead_letters + 1] = dead_letter(stream, entry_id, entries[n][2], job_prefix, retention_ms)
  elseif state.status == 'held' or is_started[id] or is_copy(state, entry_id) then
    if state.status == 'held' then redis.call('SET', job .. ':payload', payloads[n], 'NX') end
    drop_entry(stream, entry_id)
  elseif state.status == 'processing' then  -- a running job's entry stays pending: renewed, or reclaimed
  elseif waits[n] then
    put_off_job(n, job, state)
    reply[2] = reply[2] + 1
  elseif is_suspect and runs_quarantined_job() then
    delay_quarantined(n, job, state)
  else
    start(n, job, state, crashes, is_suspect)
  end
end
for n, job_labels in ipairs(labels_of(started)) do
  if job_labels then
    moved(started[n], status_before[n], 'processing', job_labels)
    reply[3 * n + 3] = reply[3 * n + 3] .. job_labels
  end
end
count('started', #started)
count('put_off', reply[2])
count('malformed', #dead_letters)
publish_event('started', started, 'worker', worker_id)
publish_event('failed', dead_letters)
if #entries == 0 then
  redis.call('DEL', bell)  -- nothing waits, so its tokens are stale: the next job rings again
  reply[1] = 'empty'
end
finish_call(retention_ms)
return reply
