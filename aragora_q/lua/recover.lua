#!lua flags=allow-oom
-- Hand back what this worker's consumer holds and the worker does not know of: starts whose reply was
-- lost on the way. Nothing is charged.
-- keys: stream_high stream_normal stream_low counters events
-- args: job_stem worker_id holder min_idle_ms limit
-- each job: id
-- returns: ids handed back

local known, returned = {}, {}
for n = 1, items do
  local _, id = item(n)
  known[id] = true
end
for _, stream in ipairs({stream_high, stream_normal, stream_low}) do
  local pending = redis.pcall('XPENDING', stream, GROUP, 'IDLE', min_idle_ms, '-', '+', limit + items, worker_id)
  for _, row in ipairs(pending.err and {} or pending) do
    local id, payload = job_of(fields_of(stream, row[1]) or {})
    if id and payload and not known[id] then
      local job = job_stem .. id
      local state = read(job, 'status', 'holder', 'entry', 'attempts')
      if state.status == 'processing' and state.holder == holder and state.entry == row[1] then
        drop_entry(stream, row[1])
        redis.call('HSET', job, 'status', 'pending', 'attempts', state.attempts - 1,
          'entry', append(stream, id, payload))
        redis.call('HDEL', job, 'lease_ms', 'holder')
        returned[#returned + 1] = id
      end
    end
  end
end
count('released', #returned)
announce('released', returned)
return returned
