#!lua flags=no-writes,allow-oom
-- Read jobs, all at one moment, whatever place their payloads are in.
-- keys: stream_high stream_normal stream_low delayed completed failed cancelled labels
-- args: max_bytes
-- each job: id
-- returns: the server's time in ms, then per job: its hash, payload (nil: it is with the result, or lost), result with
-- what is kept there, 1 if one of these was cut, history, progress, due time, labels, and when it ended as completed,
-- failed and cancelled; or nil (unknown, or past retention), or the error that its damaged data causes
--
-- The reply ends after READ_BYTES of payloads and results, but not before one job: the caller asks for the others.
-- With `max_bytes`, a longer payload or result is cut to its beginning; 0: none is.

local READ_BYTES = 8388608
local limit, bytes, is_cut = tonumber(max_bytes), 0, false

local function take(value)
  bytes = bytes + #value
  if limit == 0 or #value <= limit then return value end
  is_cut = true
  return string.sub(value, 1, limit)
end

-- The value of a key; false if there is none. Of a long one, only the beginning is read.
local function value_of(key)
  if limit > 0 and redis.call('STRLEN', key) > limit then
    is_cut = true
    return take(redis.call('GETRANGE', key, 0, limit - 1))
  end
  local value = redis.call('GET', key)
  return value and take(value)
end

local function read_job(job, id)
  local fields = redis.call('HGETALL', job)
  local state = {}
  for f = 1, #fields, 2 do state[fields[f]] = fields[f + 1] end
  if not state.status or is_past_retention(job) then return false end
  is_cut = false
  local payload, result = value_of(job .. ':payload'), value_of(job .. ':result')
  if not payload and not result and state.entry then
    local _, waiting = job_of(fields_of(lane_stream(state.priority), state.entry) or {})
    payload = waiting and take(waiting) or false
  end
  return {
    fields, payload, result, is_cut and 1 or 0, redis.call('LRANGE', job .. ':history', 0, -1),
    redis.call('HGET', job .. ':journal', 'progress'), redis.call('ZSCORE', delayed, id), redis.call('HGET', labels, id),
    redis.call('ZSCORE', completed, id), redis.call('ZSCORE', failed, id), redis.call('ZSCORE', cancelled, id),
  }
end

local reply = {now}
for n = 1, items do
  if bytes >= READ_BYTES then break end
  local is_read, row = pcall(read_job, item(n))
  if not is_read then
    local failure = type(row) == 'table' and row.err or tostring(row)
    if not string.find(failure, 'WRONGTYPE', 1, true) then error(row) end
    row = failure
  end
  reply[#reply + 1] = row
end
return reply
