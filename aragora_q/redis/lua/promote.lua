#!lua flags=allow-oom
-- Move due jobs from the delayed index to the tail of their lane; a retrying job stays RETRYING until it starts.
-- include: groups
-- keys: stream_high stream_normal stream_low delayed failed counters events bell labels groups
-- args: job_prefix retention_ms limit
-- returns: number of jobs moved, ms until the next job is due (-1: no job is delayed)

local promoted, failed_ids = {}, {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, limit)) do
  local job = job_prefix .. id
  local state = read(job, 'status', 'priority')
  local payload = redis.pcall('GET', job .. ':payload')
  if type(payload) ~= 'string' then payload = nil end  -- missing, or a key of another type
  redis.call('ZREM', delayed, id)
  if payload then
    local entry = append(lane_stream(state.priority), id, payload)
    if state.status then redis.call('HSET', job, 'entry', entry) end  -- without a hash, the entry is enough
    redis.call('DEL', job .. ':payload')
    promoted[#promoted + 1] = id
  elseif state.status then
    append_history(job, 'malformed', state, 'payload is missing: it was deleted by another program')
    finish(job, id, state.status, 'failed', failed, tonumber(retention_ms))
    failed_ids[#failed_ids + 1] = id
  end
end
count('promoted', #promoted)
count('failed', #failed_ids)
publish_event('promoted', promoted)
publish_event('failed', failed_ids)

local next_due = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')[2]
finish_call(retention_ms)
return {#promoted, next_due and math.max(0, next_due - now) or -1}
