#!lua flags=allow-oom
-- Look through what a lane has delivered for entries that nobody holds: no read and no reclaim finds them.
-- keys: stream stream_high stream_normal stream_low delayed
-- args: job_prefix after limit repair
-- returns: where the next page begins (0: this was the last), then per entry left behind: job id (entry id, where
-- it is no job), and its word of `consistency.PROBLEMS`
--
-- An entry that its own job names is left to `examine`, and one whose job runs elsewhere to that job's end.

local delivered = last_delivered(stream)
if not delivered then return {'0'} end

local function has_data(job, state)
  return state.entry and fields_of(lane_stream(state.priority), state.entry)
    or redis.call('EXISTS', job .. ':payload') == 1
end

local function word_of(entry, id, payload)
  if not (id and payload) then return 'entry-left-behind' end
  local job = job_prefix .. id
  local state = read(job, 'status', 'entry', 'priority')
  if state.entry == entry then return nil end
  if state.status == 'completed' or state.status == 'failed' or state.status == 'cancelled' or has_data(job, state) then
    return 'copy-left-behind'
  end
  return state.status ~= 'processing' and 'entry-left-behind' or nil
end

local function requeue_entry(entry, fields, id)
  drop_entry(stream, entry)
  local added = redis.call('XADD', stream, '*', unpack(fields))
  if not id then return end  -- start makes a dead letter of it
  local job = job_prefix .. id
  redis.call('ZREM', delayed, id)
  redis.call('HSETNX', job, 'status', 'pending')
  redis.call('HSET', job, 'entry', added, 'priority', priority_of(stream))
end

local reply, rows = {'0'}, redis.call('XRANGE', stream, '(' .. after, delivered, 'COUNT', limit)
for _, row in ipairs(rows) do
  local entry, fields = unpack(row)
  local held = redis.call('XPENDING', stream, GROUP, entry, entry, 1)
  local id, payload = job_of(fields)
  local word = #held == 0 and word_of(entry, id, payload)
  if word then
    reply[#reply + 1] = {id or entry, word}
    if repair == '1' and word == 'copy-left-behind' then drop_entry(stream, entry) end
    if repair == '1' and word == 'entry-left-behind' then requeue_entry(entry, fields, id) end
  end
  reply[1] = entry
end
if #rows < tonumber(limit) then reply[1] = '0' end
return reply
