#!lua
-- Give failed and cancelled jobs a new life: PENDING at the tail of their lane, as if just enqueued.
-- keys: stream_high stream_normal stream_low failed cancelled counters events
-- args:
-- each job: id
-- returns: one word per job: requeued | unknown | malformed (it never was a job), or the status it has
--
-- Attempts, crashes and deferrals begin anew; history, journal and fence go on, so that finished work
-- is not paid for twice and no result of the first life is taken for one of the second. Of the journal
-- only what was said to be of one life (`life/…`) goes.

local function forget_life(journal)
  for _, name in ipairs(redis.call('HKEYS', journal)) do
    if string.sub(name, 1, 16) == 'checkpoint:life/' then
      local bytes = redis.call('HSTRLEN', journal, name) + #name - 11  -- as checkpoint.lua counted it
      redis.call('HDEL', journal, name)
      redis.call('HINCRBY', journal, 'bytes', string.format('%d', -bytes))
    end
  end
end

local words, lived = {}, {}
for n = 1, items do
  local job, id = item(n)
  local state = read(job, 'status', 'priority', 'max_attempts')
  local payload = redis.call('GET', job .. ':payload')
  if not state.status or is_past_retention(job) then
    words[n] = 'unknown'
  elseif state.status ~= 'failed' and state.status ~= 'cancelled' then
    words[n] = state.status
  elseif not payload or state.max_attempts == '0' then
    words[n] = 'malformed'
  else
    redis.call('ZREM', state.status == 'failed' and failed or cancelled, id)
    redis.call('HDEL', job, 'attempts', 'crashes', 'deferrals', 'deferred_at', 'lease_owner', 'started_at')
    redis.call('HSET', job, 'status', 'pending', 'entry', append(lane_stream(state.priority), id, payload))
    redis.call('UNLINK', job .. ':payload')
    redis.call('PERSIST', job)
    redis.call('PERSIST', job .. ':history')
    redis.call('PERSIST', job .. ':journal')
    forget_life(job .. ':journal')
    words[n], lived[#lived + 1] = 'requeued', id
  end
end
count('requeued', #lived)
publish_event('requeued', lived)
return words
