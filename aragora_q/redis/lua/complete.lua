#!lua flags=allow-oom
-- Complete jobs: record their results and remove them from their lane.
-- include: groups
-- keys: stream_high stream_normal stream_low completed failed counters durations events delayed bell labels groups
-- args: lease_owner retention_ms
-- each job: id fence payload result
-- returns: per job: completed | cancelled | lost | failed (its result is too large to keep)

-- Most jobs end here, so this does the same as `finish` and `drop_entry` in fewer commands, per batch.
local ttl = text(retention_ms + BACKSTOP_MS)
local results, completed_ids, failed_ids, index_args, parts, entries, refused = {}, {}, {}, {}, {}, {}, 0
local taken = {}  -- number of jobs by their buckets in `durations`

-- The bucket of the time since `moment`; of what is not a time, the first one.
local function bucket_since(moment)
  local ms = now - (tonumber(moment) or now)
  return ms > 1000 and math.min(math.ceil(math.log(ms / 1000) * BUCKETS_PER_LOG), LAST_BUCKET) or 0
end

for n = 1, items do
  local job, id, fence, payload, result = item(n)
  local state = tolerate_damage(redis.pcall('HMGET', job, 'status', 'fence', 'lease_owner', 'entry', 'priority',
    'created_at'))
  local is_own = state[2] == fence and state[3] == lease_owner
  if is_own and state[1] == 'processing' and #result > MAX_DATA_BYTES then
    fail_oversized(job, id, fence, payload, #result, retention_ms)
    results[n], failed_ids[#failed_ids + 1] = 'failed', id
  elseif is_own and state[1] == 'processing' then
    redis.call('HSET', job, 'status', 'completed')
    redis.call('HDEL', job, 'entry', 'lease_ms', 'max_attempts')  -- keeps the hash in a small size class
    redis.call('PEXPIRE', job, ttl)
    -- Split at the last newline: a result has none, unlike a payload of another program.
    redis.call('SET', job .. ':result', payload .. '\n' .. result, 'PX', ttl)
    parts[#parts + 1] = job .. ':journal'
    parts[#parts + 1] = job .. ':history'
    local stream = lane_stream(state[5])
    entries[stream] = entries[stream] or {}
    table.insert(entries[stream], state[4])
    index_args[#index_args + 1] = now_text
    index_args[#index_args + 1] = id
    completed_ids[#completed_ids + 1] = id
    local buckets = bucket_since(fence) * 100 + bucket_since(state[6])  -- the fence is when the attempt started
    taken[buckets] = (taken[buckets] or 0) + 1
    results[n] = 'completed'
  elseif is_own and state[1] == 'completed' then
    results[n] = 'completed'  -- recorded before; the reply was lost
  elseif #result > MAX_DATA_BYTES and redis.pcall('HGET', job, 'failed_fence') == fence then
    results[n] = 'failed'
  else
    results[n] = refusal(state[1])
    if results[n] == 'lost' then refused = refused + 1 end
  end
end
for stream, list in pairs(entries) do drop_entries(stream, list) end
if #completed_ids > 0 then
  redis.call('ZADD', completed, unpack(index_args))
  if redis.call('EXISTS', labels, unpack(parts)) > 0 then  -- most jobs have no journal, no history and no labels
    for _, id in ipairs(completed_ids) do moved(id, 'processing', 'completed') end
    if redis.call('EXISTS', unpack(parts)) > 0 then
      for n, part in ipairs(parts) do
        local is_present = redis.call('PEXPIRE', part, ttl) == 1
        if is_present and n % 2 == 0 then clear_hold(string.sub(part, 1, -#':history' - 1)) end
      end
    end
  end
end
count('completed', #completed_ids)
for buckets, jobs in pairs(taken) do
  local pair = math.floor(buckets / 100) .. ' ' .. buckets % 100
  tolerate_damage(redis.pcall('HINCRBY', durations, pair, jobs))
end
count('failed', #failed_ids)
count('refused', refused)
publish_event('completed', completed_ids)
publish_event('failed', failed_ids)
finish_call(retention_ms)
return results
