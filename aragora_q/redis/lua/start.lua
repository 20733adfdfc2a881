#!lua flags=allow-oom
-- Take up to `limit` waiting jobs and start them: PROCESSING, fence and attempt raised, lease begun.
-- keys: stream_high stream_normal stream_low delayed failed counters events control worker
-- args: job_prefix worker_id lease_owner instance_id lease_ms limit low_first max_attempts max_crashes retention_ms
-- returns: a word (ok | paused | unregistered), then per started job: id, payload, fence, attempts,
-- max_attempts, crashes, created_at, priority, ms it waited in its lane; per parked job: id; where nothing waits, one row: the lanes' last entry ids
--
-- Touches keys that were not declared: jobs found in entries. They share the slot of those that were;
-- while a cluster moves the slot, the guard (keys.py) keeps every script from beginning.

local PARK_MS = 60000
local QUARANTINE_MS = 1000

if redis.call('HGET', worker, 'instance_id') ~= instance_id then return {'unregistered'} end
if redis.call('HGET', control, 'paused') then return {'paused'} end

local function read_new(stream, most)
  local reply = redis.pcall('XREADGROUP', 'GROUP', GROUP, worker_id, 'COUNT', most, 'STREAMS', stream, '>')
  if reply and reply.err and string.find(reply.err, 'NOGROUP', 1, true) then
    create_group(stream)
    reply = redis.call('XREADGROUP', 'GROUP', GROUP, worker_id, 'COUNT', most, 'STREAMS', stream, '>')
  end
  if reply and reply.err then return redis.error_reply(reply.err) end
  return reply and reply[1][2] or {}
end

local lanes = {stream_high, stream_normal, stream_low}
if low_first == '1' then lanes = {stream_low, stream_normal, stream_high} end

local found, room = {}, tonumber(limit)
for _, stream in ipairs(lanes) do
  if room > 0 then
    local entries = read_new(stream, room)
    if entries.err then return entries end
    room = room - #entries
    for _, each in ipairs(entries) do
      local entry = {stream = stream, entry = each[1], fields = each[2]}
      entry.id, entry.payload = job_of(each[2])
      if entry.id and entry.payload then
        entry.job = job_prefix .. entry.id
        entry.state = redis.pcall('HMGET', entry.job, 'status', 'entry', 'fence', 'attempts',
          'max_attempts', 'crashes', 'created_at', 'priority', 'schema')
      end
      found[#found + 1] = entry
    end
  end
end

-- An entry that is no job: kept as a dead letter with its bytes, so that nobody's data is dropped.
local function dead_letter(each)
  local id = 'malformed-' .. (each.stream == stream_normal and '' or each.stream == stream_high and 'high-' or 'low-') .. each.entry
  local job = job_prefix .. id
  redis.call('HSET', job, 'created_at', now, 'max_attempts', 0)
  redis.call('SET', job .. ':payload', cjson.encode(each.fields))
  append_history(job, 'malformed', {}, 'stream entry ' .. each.entry ..
    ' is not a job: it needs a field id that is a job id, and a field payload')
  finish(job, id, 'failed', failed, tonumber(retention_ms))
  drop_entry(each.stream, each.entry)
  return id
end

-- Whether an entry is a copy: its job ended, or waits elsewhere.
local function is_copy(state, entry)
  local other = state[2]
  return state[1] and state[1] ~= 'processing' and other ~= entry
    and not (other and not string.find(other, '^%d+%-%d+$'))  -- a stranger's word, not another entry
end

local function delay(each, ms)
  drop_entry(each.stream, each.entry)
  redis.call('SET', each.job .. ':payload', each.payload)
  redis.call('HDEL', each.job, 'entry')
  redis.call('HSETNX', each.job, 'created_at', entry_ms(each.entry))
  redis.call('ZADD', delayed, now + ms, each.id)
end

-- A job of a newer version of ours: it waits, uncharged, until a worker comes that understands it.
local function park(each, schema)
  delay(each, PARK_MS)
  if redis.call('HSETNX', each.job, 'parked_at', now) == 1 then
    append_history(each.job, 'parked', {}, 'needs schema ' .. schema .. ', worker ' .. worker_id .. ' knows ' .. SCHEMA)
  end
end

-- Whether workers died over a job, and the next crash would be its last: it may be a poison pill, or
-- have stood beside one. A worker runs one of these at a time, so that a pill takes no other along.
local function needs_quarantine(crashes)
  return crashes > 0 and crashes + 1 >= tonumber(max_crashes)
end

local function runs_quarantined()
  local id = redis.call('HGET', worker, 'suspect')
  local state = id and read(job_prefix .. id, 'status', 'lease_owner') or {}
  return state.status == 'processing' and state.lease_owner == lease_owner
end

local reply, started, buried, parked, is_started = {'ok'}, {}, {}, {}, {}
for _, each in ipairs(found) do
  local state = each.state
  if state and state.err then            -- a stranger's key in the place of the hash: without it, then
    redis.call('UNLINK', each.job)
    state = {}
  end
  local status, crashes = state and state[1], state and parse_int(state[6]) or 0
  if not state then
    buried[#buried + 1] = dead_letter(each)
  elseif is_started[each.id] or is_copy(state, each.entry) then
    drop_entry(each.stream, each.entry)  -- a copy: the job just started, ended, or waits elsewhere
  elseif (parse_int(state[9]) or 0) > SCHEMA then
    park(each, state[9])
    parked[#parked + 1] = each.id
    reply[#reply + 1] = {each.id}
  elseif status == 'processing' then     -- a running job's entry stays: its lease_owner renews, or reclaim comes
  elseif needs_quarantine(crashes) and runs_quarantined() then
    delay(each, QUARANTINE_MS)
  else
    -- What is lost or garbled in the hash is put right here: the entry alone is enough to go on.
    local fence, attempts = text((parse_int(state[3]) or 0) + 1), text((parse_int(state[4]) or 0) + 1)
    local added_at = string.match(each.entry, '^%d+')
    local created_at = parse_int(state[7]) or added_at
    redis.call('HSET', each.job, 'status', 'processing', 'fence', fence, 'attempts', attempts,
      'lease_owner', lease_owner, 'lease_ms', lease_ms, 'created_at', created_at, 'started_at', now_text)
    if not parse_int(state[5]) or state[2] ~= each.entry then
      state[5] = parse_int(state[5]) or max_attempts
      redis.call('HSET', each.job, 'max_attempts', state[5], 'entry', each.entry)
    end
    if lane_stream(state[8]) ~= each.stream or state[8] and not parse_int(state[8]) then
      state[8] = priority_of(each.stream)
      redis.call('HSET', each.job, 'priority', state[8])
    end
    if needs_quarantine(crashes) then redis.call('HSET', worker, 'suspect', each.id) end
    started[#started + 1], is_started[each.id] = each.id, true
    reply[#reply + 1] = {each.id, each.payload, fence, attempts, state[5], crashes,
      created_at, state[8] or 0, now - added_at}
  end
end
count('started', #started)
count('malformed', #buried)
count('parked', #parked)
publish_event('started', started, 'worker', worker_id)
publish_event('failed', buried)
publish_event('parked', parked)
if #found == 0 then
  -- Nothing is left to deliver, so what comes next has a higher id than these: a blocking XREAD from
  -- here misses nothing. (Ids made of the clock would, after the clock has jumped back.)
  local last_ids = {}
  for n, stream in ipairs({stream_high, stream_normal, stream_low}) do
    local info = redis.pcall('XINFO', 'STREAM', stream)
    last_ids[n] = '0-0'
    for f = 1, info.err and 0 or #info, 2 do
      if info[f] == 'last-generated-id' then last_ids[n] = info[f + 1] end
    end
  end
  reply[#reply + 1] = last_ids
end
return reply
