#!lua flags=allow-oom
-- Record results of jobs that are done; they leave the stream and keep payload and result.
-- keys: stream_high stream_normal stream_low completed counters events
-- args: holder retention_ms
-- each job: id fence payload result
-- returns: one word per job: completed | lost

-- The common path of every job: what `finish` and `drop_entry` do, in fewer calls, gathered per batch.
local ttl = text(retention_ms + BACKSTOP_MS)
local words, done, ended, entries, refused = {}, {}, {}, {}, 0
for n = 1, items do
  local job, id, fence, payload, result = item(n)
  local state = redis.call('HMGET', job, 'status', 'fence', 'holder', 'entry', 'priority')
  if state[1] == 'processing' and state[2] == fence and state[3] == holder then
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
  elseif state[1] == 'completed' and state[2] == fence and state[3] == holder then
    words[n] = 'completed'  -- told before; the answer was lost
  else
    words[n], refused = 'lost', refused + 1
  end
end
for stream, list in pairs(entries) do
  redis.pcall('XACK', stream, GROUP, unpack(list))
  redis.call('XDEL', stream, unpack(list))
end
if #done > 0 then redis.call('ZADD', completed, unpack(ended)) end
count('completed', #done)
count('refused', refused)
announce('completed', done)
return words
