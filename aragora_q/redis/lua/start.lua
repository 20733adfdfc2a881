#!lua flags=allow-oom
-- Start up to `limit` waiting jobs: PROCESSING, fence and attempts raised, lease begun.
-- include: groups
-- keys: stream_high stream_normal stream_low delayed failed counters events control worker bell labels groups
-- args: job_prefix worker_id lease_owner instance_id lease_ms limit max_bytes first_lane closed max_attempts max_crashes retention_ms
-- returns: ok | empty (no job was waiting) | paused | unregistered, number of jobs that were put off, then per started
-- job: id, payload, fence, attempts, max_attempts, crashes, created_at, priority, ms it waited in its lane, started_at,
-- labels
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

if redis.pcall('HGET', worker, 'instance_id') ~= instance_id then return {'unregistered', 0} end
if redis.call('HGET', control, 'paused') then return {'paused', 0} end

local order = first_lane == 'high' and {stream_high, stream_normal, stream_low}
  or first_lane == 'low' and {stream_low, stream_normal, stream_high}
  or {stream_normal, stream_high, stream_low}

local entries, capacity, bytes_left = {}, tonumber(limit), tonumber(max_bytes)
local closed_ms = closed ~= '' and cjson.decode(closed) or {}
local put_off = 0

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
    for _, row in ipairs(rows) do
      local entry = {stream = stream, entry_id = row[1], fields = row[2]}
      entry.id, entry.payload = job_of(row[2])
      if entry.id and entry.payload then
        entry.job = job_prefix .. entry.id
        entry.state = redis.pcall('HMGET', entry.job, 'status', 'entry', 'fence', 'attempts',
          'max_attempts', 'crashes', 'created_at', 'priority', 'set_aside')
        bytes_left = bytes_left - #entry.payload
        largest = math.max(largest, #entry.payload)
        entry.closed_ms = closed ~= '' and closed_ms_of(entry.payload)
      end
      if entry.closed_ms then put_off = put_off + 1 else capacity = capacity - 1 end
      entries[#entries + 1] = entry
    end
    if #rows < wanted then return end
    chunk = math.max(1, math.min(MAX_CHUNK, math.floor(bytes_left / largest)))
  end
end

for _, stream in ipairs(order) do
  local failure = read_lane(stream)
  if failure then return failure end
end

-- True if an entry is a copy: its job has ended, or waits in another entry, or is delayed.
local function is_copy(state, entry_id)
  local other = state[2]
  return state[1] and state[1] ~= 'processing' and other ~= entry_id
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

-- Move an entry that was read to the delayed index; its job's status does not change.
local function delay(entry, due)
  redis.call('ZADD', delayed, text(due), entry.id)
  redis.call('SET', entry.job .. ':payload', entry.payload)
  redis.call('HDEL', entry.job, 'entry')
  redis.call('HSETNX', entry.job, 'created_at', entry_ms(entry.entry_id))
  if not entry.state[1] then  -- without a hash
    redis.call('HSET', entry.job, 'status', 'pending', 'priority', priority_of(entry.stream))
  end
  drop_entry(entry.stream, entry.entry_id)
end

local last_return = {}  -- of the jobs that were put off, by the time at which the provider may take calls

-- Put a job off. Those that wait for the same time return one after the other, also those of several calls.
local function put_off_job(entry)
  local opens_at = now + entry.closed_ms
  local due = last_return[opens_at]
  due = due and due + RETURN_MS
    or opens_at + RETURN_MS * redis.call('ZCOUNT', delayed, text(opens_at), text(opens_at + MAX_RETURN_MS))
  last_return[opens_at] = math.min(due, opens_at + MAX_RETURN_MS)
  delay(entry, last_return[opens_at])
end

-- Set a job aside, each time for longer while another one runs, so that many of them do not circulate.
local function delay_quarantined(entry)
  local times = (parse_int(entry.state[9]) or 0) + 1
  if starts_quarantined_job then times = 1 else redis.call('HSET', entry.job, 'set_aside', text(times)) end
  delay(entry, now + math.min(QUARANTINE_MS * 2 ^ (times - 1), MAX_QUARANTINE_MS))
end

local reply, started, status_before, dead_letters, is_started = {'ok', 0}, {}, {}, {}, {}
for _, entry in ipairs(entries) do
  local state = entry.state
  if state and state.err then            -- a key of another type where the hash should be: start without it
    redis.call('UNLINK', entry.job)
    state = {}
  end
  local status, crashes = state and state[1], state and parse_int(state[6]) or 0
  if not state then
    dead_letters[#dead_letters + 1] = dead_letter(entry.stream, entry.entry_id, entry.fields, job_prefix, retention_ms)
  elseif status == 'held' or is_started[entry.id] or is_copy(state, entry.entry_id) then
    if status == 'held' then redis.call('SET', entry.job .. ':payload', entry.payload, 'NX') end
    drop_entry(entry.stream, entry.entry_id)
  elseif status == 'processing' then     -- a running job's entry stays pending: renewed, or reclaimed
  elseif entry.closed_ms then
    put_off_job(entry)
    reply[2] = reply[2] + 1
  elseif needs_quarantine(crashes) and runs_quarantined_job() then
    delay_quarantined(entry)
  else
    -- Missing or invalid fields of the hash are restored: the entry alone is enough to start a job.
    -- The fence follows the clock, so that it rises even if a failover or a purge lost its last value.
    local fence = text(math.max((parse_int(state[3]) or 0) + 1, now))
    local attempts = text((parse_int(state[4]) or 0) + 1)
    local added_at = string.match(entry.entry_id, '^%d+')
    local created_at = parse_int(state[7]) or added_at
    redis.call('HSET', entry.job, 'status', 'processing', 'fence', fence, 'attempts', attempts,
      'lease_owner', lease_owner, 'lease_ms', lease_ms, 'created_at', created_at, 'started_at', now_text)
    if not parse_int(state[5]) or state[2] ~= entry.entry_id then
      state[5] = parse_int(state[5]) or max_attempts
      redis.call('HSET', entry.job, 'max_attempts', state[5], 'entry', entry.entry_id)
    end
    if lane_stream(state[8]) ~= entry.stream or state[8] and not parse_int(state[8]) then
      state[8] = priority_of(entry.stream)
      redis.call('HSET', entry.job, 'priority', state[8])
    end
    if needs_quarantine(crashes) then
      redis.call('HSET', worker, 'quarantined', entry.id)
      starts_quarantined_job = true
    end
    started[#started + 1], is_started[entry.id] = entry.id, true
    status_before[#started] = status or 'pending'
    reply[#reply + 1] = {entry.id, entry.payload, fence, attempts, state[5], crashes,
      created_at, state[8] or 0, now - added_at, now, ''}
  end
end
for n, job_labels in ipairs(labels_of(started)) do
  if job_labels then
    moved(started[n], status_before[n], 'processing', job_labels)
    reply[n + 2][11] = job_labels
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
