#!lua
-- Record new jobs and make them runnable, or delayed; an id that is known changes nothing.
-- keys: stream_high stream_normal stream_low delayed completed failed cancelled counters events
-- args: max_backlog
-- each job: id payload priority delay_ms max_attempts
-- returns: one word per job: created | exists | full | refused (too large, or no numbers: no client of ours)

local room = math.huge
if tonumber(max_backlog) > 0 then
  room = max_backlog - redis.call('ZCARD', delayed)
  for _, stream in ipairs({stream_high, stream_normal, stream_low}) do
    if redis.call('EXISTS', stream) == 1 then
      local pending = redis.pcall('XPENDING', stream, GROUP)
      room = room - redis.call('XLEN', stream) + (pending.err and 0 or pending[1])
    end
  end
end

-- A job past retention is unknown to readers already; here it makes room for a new one of its id.
local function is_known(job, id)
  if redis.call('EXISTS', job) == 0 then return false end
  if not is_past_retention(job) then return true end
  redis.call('UNLINK', job, job .. ':payload', job .. ':result', job .. ':history', job .. ':journal')
  for _, index in ipairs({completed, failed, cancelled}) do redis.call('ZREM', index, id) end
  return false
end

local words, created = {}, {}
for n = 1, items do
  local job, id, payload, priority, delay_ms, max_attempts = item(n)
  if #payload > MAX_DATA_BYTES or #id > 64
    or not (tonumber(priority) and tonumber(delay_ms) and tonumber(max_attempts)) then
    words[n] = 'refused'
  elseif is_known(job, id) then
    words[n] = 'exists'
  elseif #created >= room then
    words[n] = 'full'
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
    words[n] = 'created'
  end
end
count('enqueued', #created)
publish_event('enqueued', created)
return words
