#!lua flags=allow-oom
-- Find delivered entries of a lane that are not pending: neither a read nor reclaim returns them again. If the queue
-- has labels, also find entries of labeled jobs whose hash is missing.
-- include: groups
-- keys: stream stream_high stream_normal stream_low delayed bell labels
-- args: job_prefix after limit repair
-- returns: where the next page begins (0: this was the last), then per problem: job id (entry id if the
-- entry is not a job), code (see doctor/report.py)
--
-- An entry that its own job's hash names is left to check_job; a copy of a job that is running elsewhere
-- is left until that job has ended.

local delivered = group_info(stream)['last-delivered-id']
local last = redis.call('EXISTS', labels) == 1 and '+' or delivered
if not last then return {'0'} end

local function has_data(job, state)
  return state.entry and fields_of(lane_stream(state.priority), state.entry)
    or redis.call('EXISTS', job .. ':payload') == 1
end

local function problem_of(entry, id, payload)
  if not (id and payload) then return 'orphaned-entry' end
  local job = job_prefix .. id
  local state = read(job, 'status', 'entry', 'priority')
  if state.entry == entry then return nil end
  if state.status == 'completed' or state.status == 'failed' or state.status == 'cancelled' or has_data(job, state) then
    return 'duplicate-entry'
  end
  return state.status ~= 'processing' and 'orphaned-entry' or nil
end

local function requeue_entry(entry, fields, id, payload)
  drop_entry(stream, entry)
  if not id then  -- start moves it to the dead letters
    redis.call('XADD', stream, '*', unpack(fields))
    return
  end
  local added = append(stream, id, payload)
  local job = job_prefix .. id
  redis.call('ZREM', delayed, id)
  redis.call('HSETNX', job, 'status', 'pending')
  redis.call('HSET', job, 'entry', added, 'priority', priority_of(stream))
end

-- Without a hash, the entry is enough to start a job; but the job would not be found by its labels.
local function create_hash(entry, id)
  redis.call('HSET', job_prefix .. id, 'status', 'pending', 'entry', entry, 'priority', priority_of(stream),
    'created_at', text(entry_ms(entry)))
end

local function is_left(entry)
  return is_up_to(entry, delivered) and #redis.call('XPENDING', stream, GROUP, entry, entry, 1) == 0
end

local reply, rows, ids = {'0'}, redis.call('XRANGE', stream, '(' .. after, last, 'COUNT', limit), {}
for n, row in ipairs(rows) do ids[n] = job_of(row[2]) or '' end
local known_labels = labels_of(ids)
for n, row in ipairs(rows) do
  local entry, fields = unpack(row)
  local id, payload = job_of(fields)
  local problem = is_left(entry) and problem_of(entry, id, payload)
  if not problem and payload and known_labels[n] and redis.call('EXISTS', job_prefix .. id) == 0 then
    problem = 'entry-without-hash'
  end
  if problem then
    reply[#reply + 1] = {id or entry, problem}
    if repair == '1' and problem == 'duplicate-entry' then drop_entry(stream, entry) end
    if repair == '1' and problem == 'orphaned-entry' then requeue_entry(entry, fields, id, payload) end
    if repair == '1' and problem == 'entry-without-hash' then create_hash(entry, id) end
  end
  reply[1] = entry
end
if #rows < tonumber(limit) then reply[1] = '0' end
ring_bell()
return reply
