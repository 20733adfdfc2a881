#!lua flags=allow-oom
-- Record results of jobs that are done; they leave the stream and keep payload and result.
-- keys: stream_high stream_normal stream_low completed failed counters events
-- args: lease_owner retention_ms
-- each job: id fence payload result
-- returns: one word per job: completed | cancelled | lost | failed (its result is too large to keep)

local function fail(job, id, payload, result)
  local state = read(job, 'lease_owner', 'entry', 'priority', 'attempts')
  drop_entry(lane_stream(state.priority), state.entry)
  redis.call('SET', job .. ':payload', payload)
  append_history(job, 'error', state, 'result has ' .. #result .. ' bytes, at most ' .. MAX_DATA_BYTES .. ' are kept')
  finish(job, id, 'failed', failed, tonumber(retention_ms))
end

-- The common path of every job: what `finish` and `drop_entry` do, in fewer calls, gathered per batch.
local ttl = text(retention_ms + BACKSTOP_MS)
local words, done, dead, ended, entries, refused = {}, {}, {}, {}, {}, 0
for n = 1, items do
  local job, id, fence, payload, result = item(n)
  local state = redis.call('HMGET', job, 'status', 'fence', 'lease_owner', 'entry', 'priority')
  local is_ours = state[2] == fence and state[3] == lease_owner
  if is_ours and state[1] == 'processing' and #result > MAX_DATA_BYTES then
    fail(job, id, payload, result)
    words[n], dead[#dead + 1] = 'failed', id
  elseif is_ours and state[1] == 'processing' then
    redis.call('HSET', job, 'status', 'completed')
    redis.call('HDEL', job, 'entry', 'lease_ms', 'max_attempts')  -- keeps the hash in a small size class
    redis.call('PEXPIRE', job, ttl)
    redis.call('SET', job .. ':result', payload .. '\n' .. result, 'PX', ttl)
    if redis.call('EXISTS', job .. ':journal', job .. ':history') > 0 then
      redis.call('PEXPIRE', job .. ':journal', ttl)
      redis.call('PEXPIRE', job .. ':history', ttl)
    end
    local stream = lane_stream(state[5])
    entries[stream] = entries[stream] or {}
    table.insert(entries[stream], state[4])
    ended[#ended + 1] = now_text
    ended[#ended + 1] = id
    done[#done + 1] = id
    words[n] = 'completed'
  elseif is_ours and (state[1] == 'completed' or state[1] == 'failed' and #result > MAX_DATA_BYTES) then
    words[n] = state[1]  -- told before; the answer was lost
  else
    words[n] = refusal(state[1])
    if words[n] == 'lost' then refused = refused + 1 end
  end
end
for stream, list in pairs(entries) do
  redis.pcall('XACK', stream, GROUP, unpack(list))
  redis.call('XDEL', stream, unpack(list))
end
if #done > 0 then redis.call('ZADD', completed, unpack(ended)) end
count('completed', #done)
count('failed', #dead)
count('refused', refused)
publish_event('completed', done)
publish_event('failed', dead)
return words
