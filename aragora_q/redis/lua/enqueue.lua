#!lua
-- Add new jobs to their lanes, or to the delayed index; an id that exists changes nothing.
-- keys: stream_high stream_normal stream_low delayed completed failed cancelled counters events bell
-- args: max_backlog
-- each job: id payload priority delay_ms max_attempts
-- returns: per job: created | exists | full | refused (too large, or not numbers: not sent by this client)

local capacity = math.huge
if tonumber(max_backlog) > 0 then
  capacity = max_backlog - redis.call('ZCARD', delayed)
  for _, stream in ipairs({stream_high, stream_normal, stream_low}) do
    local length = redis.call('XLEN', stream)
    if length > 0 then capacity = capacity - length + (group_info(stream).pending or 0) end
  end
end

-- A job past retention is unknown to readers: its keys are deleted, so that its id can be used again.
local function exists(job, id)
  if redis.call('EXISTS', job) == 0 then return false end
  if not is_past_retention(job) then return true end
  redis.call('UNLINK', job, job .. ':payload', job .. ':result', job .. ':history', job .. ':journal')
  for _, index in ipairs({completed, failed, cancelled}) do redis.call('ZREM', index, id) end
  return false
end

local results, created = {}, {}
for n = 1, items do
  local job, id, payload, priority, delay_ms, max_attempts = item(n)
  if #payload > MAX_DATA_BYTES or #id > MAX_JOB_ID_CHARS
    or not (tonumber(priority) and tonumber(delay_ms) and tonumber(max_attempts)) then
    results[n] = 'refused'
  elseif exists(job, id) then
    results[n] = 'exists'
  elseif #created >= capacity then
    results[n] = 'full'
  else
    if delay_ms == '0' then
      local entry = append(lane_stream(priority), id, payload)  -- its id is the time of creation, too
      redis.call('HSET', job, 'status', 'pending', 'max_attempts', max_attempts, 'entry', entry)
    else
      local at = now_ms()
      redis.call('SET', job .. ':payload', payload)
      redis.call('ZADD', delayed, text(at + delay_ms), id)
      redis.call('HSET', job, 'status', 'pending', 'max_attempts', max_attempts, 'created_at', text(at))
    end
    if priority ~= '0' then redis.call('HSET', job, 'priority', priority) end
    created[#created + 1] = id
    results[n] = 'created'
  end
end
count('enqueued', #created)
publish_event('enqueued', created)
ring_bell()
return results
