#!lua
-- Return failed and cancelled jobs to PENDING at the tail of their lane, with their attempts reset.
-- include: groups
-- keys: stream_high stream_normal stream_low failed cancelled counters events bell delayed labels groups
-- args: by reason
-- each job: id
-- returns: per job: requeued | unknown | malformed (the dead letter of a malformed entry), or the status it has
--
-- Attempts, crashes and deferrals start at zero. History, journal and fence are kept, so that finished
-- work is not paid for twice and a late result from before the requeue is refused. Checkpoints named `life/...`
-- and a partial result are deleted.

local function delete_life_checkpoints(journal)
  local names = redis.pcall('HKEYS', journal)
  if names.err then return end  -- a key of another type
  local freed = 0
  for _, name in ipairs(names) do
    if string.sub(name, 1, 16) == 'checkpoint:life/' then
      freed = freed + redis.call('HSTRLEN', journal, name) + #name - 11  -- as checkpoint.lua counted it
      redis.call('HDEL', journal, name)
    end
  end
  if freed == 0 then return end
  local bytes = parse_int(redis.call('HGET', journal, 'bytes')) or 0
  redis.call('HSET', journal, 'bytes', text(math.max(0, bytes - freed)))
end

local results, requeued = {}, {}
for n = 1, items do
  local job, id = item(n)
  local state = read(job, 'status', 'priority', 'max_attempts', 'attempts')
  local payload = tolerate_damage(redis.pcall('GET', job .. ':payload'))
  if not state.status or is_past_retention(job) then
    results[n] = 'unknown'
  elseif state.status ~= 'failed' and state.status ~= 'cancelled' then
    results[n] = state.status
  elseif type(payload) ~= 'string' or state.max_attempts == '0' then  -- missing, or a key of another type
    results[n] = 'malformed'
  else
    redis.call('ZREM', state.status == 'failed' and failed or cancelled, id)
    redis.call('HDEL', job, 'attempts', 'crashes', 'deferrals', 'deferred_at', 'set_aside',
      'lease_owner', 'started_at', 'orphaned')
    redis.call('HSET', job, 'status', 'pending', 'entry', append(lane_stream(state.priority), id, payload))
    redis.call('UNLINK', job .. ':payload', job .. ':result')
    moved(id, state.status, 'pending')
    note_actor(job, 'requeued', state, by, reason)
    redis.call('PERSIST', job)
    redis.call('PERSIST', job .. ':history')
    redis.call('PERSIST', job .. ':journal')
    delete_life_checkpoints(job .. ':journal')
    results[n], requeued[#requeued + 1] = 'requeued', id
  end
end
count('requeued', #requeued)
publish_event('requeued', requeued)
finish_call()
return results
