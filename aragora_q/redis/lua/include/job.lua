-- Spoken by every script that moves a job: the clock, lanes, entries, endings, events.

local GROUP = 'aragora-workers'
local SCHEMA = 1  -- what these scripts understand: of `control` for the queue, of a job's hash for the job
local HISTORY_LENGTH = 20
local EVENTS_LENGTH = '500'
local BACKSTOP_MS = 86400000
local MAX_DATA_BYTES = 67108864  -- of a payload or result, whatever a client's settings allow
local MAX_ERROR_BYTES = 8000

-- One clock for all: the server's, in Unix milliseconds.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local now = now_ms()

-- A whole number as text. redis.call makes one of each number it is given, at the price of a command.
local function text(number)
  return string.format('%d', number)
end

local now_text = text(now)

-- The stream of a priority's lane; `keys.lane_of` says the same in Python.
local function lane_stream(priority)
  priority = tonumber(priority) or 0
  if priority > 0 then return stream_high end
  if priority < 0 then return stream_low end
  return stream_normal
end

-- A priority of a stream's lane, as text.
local function priority_of(stream)
  return stream == stream_high and '1' or stream == stream_low and '-1' or '0'
end

-- When an entry was added, by its id.
local function entry_ms(entry)
  return tonumber(string.match(entry, '^%d+'))
end

-- The job id and payload that an entry's fields name; no id where it cannot be one (`JOB_ID_PATTERN`).
local function job_of(fields)
  local found = {}
  for f = 1, #fields, 2 do found[fields[f]] = fields[f + 1] end
  local id = found.id
  if id and not (#id <= 64 and string.find(id, '^%w[%w._@=+-]*$')) then id = nil end
  return id, found.payload
end

-- The fields of one entry; nil if it was deleted, or the id is a stranger's word.
local function fields_of(stream, entry)
  local row = redis.pcall('XRANGE', stream, entry, entry)[1]
  if row and row[1] == entry then return row[2] end
end

-- The id of the last entry that the group was given: no read brings it or one before it again.
local function last_delivered(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, group in ipairs(groups.err and {} or groups) do
    local fields = {}
    for f = 1, #group, 2 do fields[group[f]] = group[f + 1] end
    if fields.name == GROUP then return fields['last-delivered-id'] end
  end
end

local function create_group(stream)
  redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
end

-- Append a job to its lane's tail; returns the entry id.
local function append(stream, id, payload)
  local entry = redis.call('XADD', stream, 'NOMKSTREAM', '*', 'id', id, 'payload', payload)
  if entry then return entry end
  create_group(stream)
  return redis.call('XADD', stream, '*', 'id', id, 'payload', payload)
end

-- Take an entry out of its lane. Always both: an entry acknowledged but not deleted, or deleted but
-- still pending, is one that statistics and reclaim would trip over for ever.
local function drop_entry(stream, entry)
  redis.pcall('XACK', stream, GROUP, entry)
  redis.call('XDEL', stream, entry)
end

-- Whether `lease_owner` holds `job` by `fence`: the condition of everything a worker may ask for.
local function owns_lease(state, lease_owner, fence)
  return state.status == 'processing' and state.fence == fence and state.lease_owner == lease_owner
end

-- Whether a report that is not held is one we have answered before, and the answer got lost: the same
-- attempt, and the job as that report left it. Then the answer is the same again.
local function is_repeat(state, lease_owner, fence, status)
  return state.status == status and state.fence == fence and state.lease_owner == lease_owner
end

-- What an attempt is told whose job is no longer its own: cancelled, or given to another.
local function refusal(status)
  return status == 'cancelled' and 'cancelled' or 'lost'
end

-- Read the named fields of a job's hash; absent ones are nil.
local function read(job, ...)
  local values = redis.pcall('HMGET', job, ...)
  local state = {}
  if values.err then return state end  -- a stranger's key, of another type
  for n, name in ipairs({...}) do state[name] = values[n] or nil end
  return state
end

-- A whole number that we wrote; nil for what a stranger put in its place.
local function parse_int(text)
  return text and #text <= 15 and string.find(text, '^%-?%d+$') and tonumber(text) or nil
end

-- Keep what went wrong, newest last, bounded: no line is longer than MAX_ERROR_BYTES, nor cut inside a character.
local function append_history(job, cause, state, text)
  if #text > MAX_ERROR_BYTES then
    text = string.gsub(string.sub(text, 1, MAX_ERROR_BYTES), '[\192-\255][\128-\191]*$', '')
  end
  local line = cjson.encode({
    at = now, cause = cause, attempt = parse_int(tostring(state.attempts or 0)),
    worker = state.lease_owner, error = text,
  })
  if type(redis.pcall('RPUSH', job .. ':history', line)) == 'table' then  -- a stranger's key
    redis.call('UNLINK', job .. ':history')
    redis.call('RPUSH', job .. ':history', line)
  end
  redis.call('LTRIM', job .. ':history', -HISTORY_LENGTH, -1)
end

-- End a job's life: terminal status, index (whose score says when), and one TTL on all its keys as a
-- backstop to purge.
local function finish(job, id, status, index, retention_ms)
  local ttl = retention_ms + BACKSTOP_MS
  redis.call('HSET', job, 'status', status)
  redis.call('HDEL', job, 'entry', 'lease_ms')
  redis.call('ZADD', index, now, id)
  redis.call('PEXPIRE', job, ttl)
  redis.call('PEXPIRE', job .. ':payload', ttl)
  redis.call('PEXPIRE', job .. ':history', ttl)
  redis.call('PEXPIRE', job .. ':journal', ttl)
end

-- Whether readers no longer see a job: its keys outlive its retention by the backstop.
local function is_past_retention(job)
  local ttl = redis.call('PTTL', job)
  return ttl >= 0 and ttl < BACKSTOP_MS
end

local function count(name, by)
  if by > 0 then redis.call('HINCRBY', counters, name, by) end
end

-- Tell followers of the queue; one event for all jobs of a call that went the same way.
local function publish_event(event, ids, ...)
  if #ids == 0 then return end
  redis.call('XADD', events, 'MAXLEN', '~', EVENTS_LENGTH, '*',
    'event', event, 'ids', table.concat(ids, ' '), ...)
end
