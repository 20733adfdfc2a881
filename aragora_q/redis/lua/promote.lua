#!lua flags=allow-oom
-- Move delayed jobs that are due to the tail of their lane; a retrying job stays RETRYING until it starts.
-- keys: stream_high stream_normal stream_low delayed failed counters events
-- args: job_prefix retention_ms limit
-- returns: number moved, then ms until the next one is due (-1: none waits)
--
-- Jobs of a newer version, which start parks here, are moved when due as all are, but nobody's next to
-- wait for: they would come back for ever.

local promoted, dead = {}, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, limit)) do
  local job = job_prefix .. id
  local state = read(job, 'status', 'priority')
  local payload = redis.pcall('GET', job .. ':payload')
  if type(payload) ~= 'string' then payload = nil end  -- none, or a stranger's key
  redis.call('ZREM', delayed, id)
  if payload then
    local entry = append(lane_stream(state.priority), id, payload)
    if state.status then redis.call('HSET', job, 'entry', entry) end  -- else the entry alone will do
    redis.call('DEL', job .. ':payload')
    promoted[#promoted + 1] = id
  elseif state.status then
    append_history(job, 'malformed', state, 'its payload was deleted by someone else')
    finish(job, id, 'failed', failed, tonumber(retention_ms))
    dead[#dead + 1] = id
  end
end
count('promoted', #promoted)
count('failed', #dead)
publish_event('promoted', promoted)
publish_event('failed', dead)

local function next_due_ms()
  local waiting = redis.call('ZRANGE', delayed, 0, limit - 1, 'WITHSCORES')
  for n = 1, #waiting, 2 do
    local left_ms = math.max(0, waiting[n + 1] - now)
    if left_ms == 0 or (parse_int(read(job_prefix .. waiting[n], 'schema').schema) or 0) <= SCHEMA then
      return left_ms
    end
  end
  return -1
end
return {#promoted, next_due_ms()}
