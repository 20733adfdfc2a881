-- Shared by every script that changes a job: the clock, lanes, entries, endings, events.
-- Names in capitals are constants of `keys.py`.

-- The server's clock in Unix milliseconds, the only clock that scripts use.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local now = now_ms()

-- A whole number as text. redis.call converts a number, too, but more slowly.
local function text(number)
  return string.format('%d', number)
end

local now_text = text(now)

-- The stream of a priority's lane; `lane_of` in base.py applies the same rule.
local function lane_stream(priority)
  priority = tonumber(priority) or 0
  if priority > 0 then return stream_high end
  if priority < 0 then return stream_low end
  return stream_normal
end

-- A priority, as text, that belongs in a stream's lane.
local function priority_of(stream)
  return stream == stream_high and '1' or stream == stream_low and '-1' or '0'
end

-- The time an entry was added, taken from its id.
local function entry_ms(entry)
  return tonumber(string.match(entry, '^%d+'))
end

-- The job id and payload in an entry's fields; the id is nil if it is missing or invalid.
local function job_of(fields)
  local id, payload = fields[2], fields[4]
  if not (#fields == 4 and fields[1] == 'id' and fields[3] == 'payload') then  -- of another program
    local values = {}
    for f = 1, #fields, 2 do values[fields[f]] = fields[f + 1] end
    id, payload = values.id, values.payload
  end
  if id and not (#id <= MAX_JOB_ID_CHARS and string.find(id, JOB_ID_PATTERN)) then id = nil end
  return id, payload
end

-- The fields of one entry; nil if it was deleted or `entry` is not an entry id.
local function fields_of(stream, entry)
  local row = redis.pcall('XRANGE', stream, entry, entry)[1]
  if row and row[1] == entry then return row[2] end
end

-- What XINFO GROUPS says of the consumer group in a lane, by field; empty if there is no such group.
local function group_info(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, group in ipairs(groups.err and {} or groups) do
    local fields = {}
    for f = 1, #group, 2 do fields[group[f]] = group[f + 1] end
    if fields.name == GROUP then return fields end
  end
  return {}
end

-- How many jobs can be enqueued until `max_backlog` wait.
local function room_below(max_backlog)  -- rare
  local room = max_backlog - redis.call('ZCARD', delayed)
  for _, stream in ipairs({stream_high, stream_normal, stream_low}) do
    local length = redis.call('XLEN', stream)
    if length > 0 then room = room - length + (group_info(stream).pending or 0) end
  end
  return room
end

-- True if the id `entry` is not after `last`; false without `last`. No read returns an entry that is not after the
-- last one that the group has delivered.
local function is_up_to(entry, last)
  if not last then return false end
  local ms, seq = string.match(entry, '^(%d+)-(%d+)$')
  local last_ms, last_seq = string.match(last, '^(%d+)-(%d+)$')
  ms, seq, last_ms, last_seq = tonumber(ms), tonumber(seq), tonumber(last_ms), tonumber(last_seq)
  return ms < last_ms or (ms == last_ms and seq <= last_seq)
end

local function create_group(stream)  -- rare
  redis.pcall('XGROUP', 'CREATE', stream, GROUP, '0', 'MKSTREAM')
end

local moves = {}          -- of this call: a job's id, its status before and after, and so on
local labeled_moves = {}  -- the same with the job's labels, where they are known, instead of its id

-- Note that a job's status changes; `from` is nil for a new job. Every change of a status is noted, so that
-- `finish_call` counts it in the job's group. `job_labels` are the job's labels (false: none), if known.
local function moved(id, from, to, job_labels)
  if job_labels == false then return end
  local list = job_labels and labeled_moves or moves
  local n = #list
  list[n + 1], list[n + 2], list[n + 3] = job_labels or id, from or false, to
end

local appended = 0  -- jobs that this call made runnable

-- Append a job to its lane; returns the entry id.
local function append(stream, id, payload)
  appended = appended + 1
  local entry = redis.call('XADD', stream, 'NOMKSTREAM', '*', 'id', id, 'payload', payload)
  if entry then return entry end
  create_group(stream)
  return redis.call('XADD', stream, '*', 'id', id, 'payload', payload)
end

-- Wake one idle worker for each job that was appended: idle workers block on the list `bell`. Tokens that
-- no worker takes stay there, at most MAX_BELL, until `start` finds the lanes empty.
local function ring_bell()
  local missing = appended > 0 and math.min(appended, MAX_BELL - redis.call('LLEN', bell)) or 0
  if missing <= 0 then return end
  local tokens = {}
  for n = 1, missing do tokens[n] = '1' end
  redis.call('RPUSH', bell, unpack(tokens))
end

-- The reply to redis.pcall. Raises every error, such as missing rights, but those that damaged data causes: an entry
-- id that is invalid or missing, or the last one possible, a key of another type, a number that is none or too large.
local function tolerate_damage(reply)
  local failure = type(reply) == 'table' and reply.err
  if failure and not (string.find(failure, 'stream ID', 1, true) or string.find(failure, 'WRONGTYPE', 1, true)
    or string.find(failure, 'must be strings or integers', 1, true) or string.find(failure, 'not an integer', 1, true)
    or string.find(failure, 'overflow', 1, true) or string.find(failure, 'last possible ID', 1, true)) then error(reply) end
  return reply
end

-- Remove entries from their lane. Always both commands: statistics and reclaim rely on there being no
-- entry that is acknowledged but not deleted, or deleted but still pending.
-- Redis refuses a call with a value that is not an entry id, from a damaged hash: then each has its own call.
local function drop_entries(stream, entries)
  tolerate_damage(redis.pcall('XACK', stream, GROUP, unpack(entries)))
  local reply = tolerate_damage(redis.pcall('XDEL', stream, unpack(entries)))
  if type(reply) == 'table' and #entries > 1 then
    for _, entry in ipairs(entries) do drop_entries(stream, {entry}) end
  end
end

-- The same for one entry; nil, from a damaged hash, drops none.
local function drop_entry(stream, entry)
  if entry then drop_entries(stream, {entry}) end
end

-- True if the attempt `fence` of `lease_owner` owns the job's lease. Every request of a worker is
-- refused without it.
local function owns_lease(state, lease_owner, fence)
  return state.status == 'processing' and state.fence == fence and state.lease_owner == lease_owner
end

-- Worker id and instance id of the owner of a job's lease; nil if it has none.
local function owner_of(state)
  return string.match(state.lease_owner or '', '^(.*)@(.*)$')
end

-- The reply to an attempt that does not own its job: the job was cancelled, or started elsewhere.
local function refusal(status)
  return status == 'cancelled' and 'cancelled' or 'lost'
end

-- Read the named fields of a job's hash; missing ones are nil. A key of another type reads as empty.
local function read(job, ...)
  local values = redis.pcall('HMGET', job, ...)
  local state = {}
  if values.err then return state end
  for n, name in ipairs({...}) do state[name] = values[n] or nil end
  return state
end

-- The status of a job; of one whose keys have expired, that of the index that still lists it.
local function status_of(job, id)
  local status = read(job, 'status').status
  if status then return status end
  for ended, index in pairs({completed = completed, failed = failed, cancelled = cancelled}) do
    if redis.call('ZSCORE', index, id) then return ended end
  end
end

-- A whole number as this product writes it; nil for anything else.
local function parse_int(text)
  return text and #text <= 15 and string.find(text, '^%-?%d+$') and tonumber(text) or nil
end

-- A time in ms; nil for what another program wrote.
local function parse_time(text)
  local ms = parse_int(text)
  return ms and ms >= 0 and ms < END_OF_TIME_MS and ms or nil
end

-- Text of an error or a reason, cut at MAX_HISTORY_BYTES, never inside a character.
local function cut(text)
  if #text <= MAX_HISTORY_BYTES then return text end
  return (string.gsub(string.sub(text, 1, MAX_HISTORY_BYTES), '[\192-\255][\128-\191]*$', ''))
end

-- Note in a job's hash that it has `more`: a history, a journal, or what earlier attempts left. Most jobs have none when
-- they complete, and `complete` need not look for it.
local function note_more(job)
  redis.call('HSET', job, 'more', '1')
end

-- Append a line to a job's history: an error, or, with `by`, why that one changed the job.
local function append_history(job, cause, state, text, by)
  note_more(job)
  text = cut(text)
  local line = cjson.encode({
    at = now, cause = cause, attempt = parse_int(tostring(state.attempts or 0)),
    worker = state.lease_owner, by = by, [by and 'reason' or 'error'] = text,
  })
  if type(redis.pcall('RPUSH', job .. ':history', line)) == 'table' then  -- a key of another type: replace it
    redis.call('UNLINK', job .. ':history')
    redis.call('RPUSH', job .. ':history', line)
  end
  redis.call('LTRIM', job .. ':history', -MAX_HISTORY, -1)
end

-- Note in a job's history who changed it, and why; if neither is known, nothing.
local function note_actor(job, cause, state, by, reason)
  if by ~= '' or reason ~= '' then append_history(job, cause, state, reason, by) end
end

-- Delete what is known of a job's hold. Every hold has a line in the history: without a history there is none.
local function clear_hold(job)  -- rare
  redis.call('HDEL', job, 'held_from', 'held_due', 'held_at', 'hold_asked', 'hold_cause', 'hold_by', 'hold_until',
    'hold_usd')
end

-- End a job whose status was `from`: set the terminal status, add it to the index by end time, give all its keys
-- a TTL.
local function finish(job, id, from, status, index, retention_ms)
  moved(id, from or 'pending', status)
  local ttl = retention_ms + BACKSTOP_MS
  redis.call('ZADD', index, now, id)  -- first: if it fails, nothing has changed
  redis.call('HSET', job, 'status', status)
  redis.call('HDEL', job, 'entry', 'lease_ms')
  redis.call('PEXPIRE', job, ttl)
  redis.call('PEXPIRE', job .. ':payload', ttl)
  if redis.call('PEXPIRE', job .. ':history', ttl) == 1 then clear_hold(job) end
  redis.call('PEXPIRE', job .. ':journal', ttl)
end

-- Fail a job as its attempt `fence` reports. `failed_fence` answers a report that is sent again because its
-- reply was lost, even after the job was requeued; so do retried_fence, released_fence and suspended_fence.
local function fail_attempt(job, id, fence, payload, state, error_text, retention_ms)
  redis.call('SET', job .. ':payload', payload)
  append_history(job, 'error', state, error_text)
  finish(job, id, 'processing', 'failed', failed, tonumber(retention_ms))
  redis.call('HSET', job, 'failed_fence', fence)
  drop_entry(lane_stream(state.priority), state.entry)
end

-- True if readers no longer see a job: its keys outlive its retention by BACKSTOP_MS, or are gone.
local function is_past_retention(job)
  local ttl = redis.call('PTTL', job)
  return ttl ~= -1 and ttl < BACKSTOP_MS
end

-- Move a malformed entry to the dead letters; its fields become the payload, so that no data is lost.
local function dead_letter(stream, entry_id, fields, job_prefix, retention_ms)  -- rare
  local lane = stream == stream_high and 'high-' or stream == stream_low and 'low-' or ''
  local id = 'malformed-' .. lane .. entry_id
  local job = job_prefix .. id
  redis.call('HSET', job, 'created_at', now, 'max_attempts', 0)
  redis.call('SET', job .. ':payload', cjson.encode(fields))
  append_history(job, 'malformed', {}, 'stream entry ' .. entry_id ..
    ' is not a job: it needs the fields id (a valid job id) and payload')
  finish(job, id, nil, 'failed', failed, tonumber(retention_ms))
  drop_entry(stream, entry_id)
  return id
end

-- Fail a job whose result is too large to keep.
local function fail_oversized(job, id, fence, payload, result_bytes, retention_ms)  -- rare
  fail_attempt(job, id, fence, payload, read(job, 'lease_owner', 'entry', 'priority', 'attempts'),
    'result has ' .. result_bytes .. ' bytes, the limit is ' .. MAX_DATA_BYTES, retention_ms)
end

local function count(name, by)
  if by > 0 then redis.call('HINCRBY', counters, name, by) end
end

-- Publish one event for all jobs of a call that took the same transition.
local function publish_event(event, ids, ...)
  if #ids == 0 then return end
  redis.call('XADD', events, 'MAXLEN', '~', MAX_EVENTS, '*',
    'event', event, 'ids', table.concat(ids, ' '), ...)
end

-- Note in `changes` what an operator did, and why; nothing if `by` is empty: then it was not an operator. `verb` is one
-- word; `subject` is what was changed, such as `group:<name>` or `budget:<name>`, or empty for the queue or its jobs;
-- `ids` are the jobs or messages, none for other subjects. Optional: `detail`, what it was changed to; `n_ids`, how
-- many there are, if not all are in `ids`; `since`, when the first of several calls was made, in ms.
local function note_change(verb, subject, ids, by, reason, detail, n_ids, since)  -- rare
  if by == '' then return end
  local fields = {
    'verb', verb, 'subject', subject, 'by', by, 'reason', cut(reason), 'detail', detail or '',
    'count', text(n_ids or #ids), 'ids', table.concat(ids, ' ', 1, math.min(#ids, MAX_CHANGE_IDS)),
    'since', since or now_text,
  }
  local reply = tolerate_damage(redis.pcall('XADD', changes, 'MAXLEN', '~', MAX_CHANGES, '*', unpack(fields)))
  if type(reply) == 'table' then  -- a key of another type, or a stream with no id left: replace it
    redis.call('UNLINK', changes)
    redis.call('XADD', changes, '*', unpack(fields))
  end
end

local SAME_COMMAND_MS = 10000

-- The same for what may take several calls: a command that changes many jobs sends 100 per call. If the operator's last
-- change says the same and is not older than SAME_COMMAND_MS, it is replaced by one that has the jobs of both: a job
-- that it names already is not added again.
local function note_changes(verb, subject, ids, by, reason, detail)  -- rare
  if by == '' then return end
  local last
  local entries = redis.pcall('XREVRANGE', changes, '+', '-', 'COUNT', 5)  -- of the last operators
  for _, entry in ipairs(entries.err and {} or entries) do
    local change = {at = entry_ms(entry[1]), entry = entry[1]}
    for f = 1, #entry[2], 2 do change[entry[2][f]] = entry[2][f + 1] end
    if change.by == by and not last then last = change end
  end
  if not (last and now - last.at < SAME_COMMAND_MS and last.verb == verb and last.subject == subject
    and last.reason == cut(reason) and last.detail == (detail or '')
    and redis.pcall('XDEL', changes, last.entry) == 1) then
    note_change(verb, subject, ids, by, reason, detail)
    return
  end
  local all, named, n_ids = {}, {}, parse_int(last.count) or 0
  for id in string.gmatch(last.ids or '', '%S+') do all[#all + 1], named[id] = id, true end
  for _, id in ipairs(ids) do
    if not named[id] then all[#all + 1], named[id], n_ids = id, true, n_ids + 1 end
  end
  note_change(verb, subject, all, by, reason, detail, n_ids, last.since)
end
