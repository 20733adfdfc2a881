#!lua
-- Record new jobs and make them runnable, or delayed; an id that is known changes nothing.
-- keys: stream_high stream_normal stream_low delayed counters events
-- args: max_backlog
-- each job: id payload priority delay_ms max_attempts
-- returns: one word per job: created | exists | full

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

local words, created = {}, {}
for n = 1, items do
  local job, id, payload, priority, delay_ms, max_attempts = item(n)
  if redis.call('EXISTS', job) == 1 then
    words[n] = 'exists'
  elseif #created >= room then
    words[n] = 'full'
  else
    local due = tonumber(delay_ms) > 0 and now + delay_ms or nil
    local fields = {'status', 'pending', 'max_attempts', max_attempts}
    local function also(name, value)
      fields[#fields + 1], fields[#fields + 2] = name, value
    end
    if priority ~= '0' then also('priority', priority) end
    if due then
      redis.call('SET', job .. ':payload', payload)
      redis.call('ZADD', delayed, due, id)
      also('created_at', now)
    else
      also('entry', append(lane_stream(priority), id, payload))  -- its id is the time of creation, too
    end
    redis.call('HSET', job, unpack(fields))
    created[#created + 1] = id
    words[n] = 'created'
  end
end
count('enqueued', #created)
announce('enqueued', created)
return words
