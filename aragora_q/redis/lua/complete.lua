#!lua flags=allow-oom
-- Complete jobs: record their results and remove them from their lane.
-- include: groups
-- keys: stream_high stream_normal stream_low completed failed counters durations events delayed bell labels groups
-- args: lease_owner retention_ms
-- each job: id fence record
-- returns: per job: completed | cancelled | lost | failed (its result is too large to keep)
--
-- `record` is the payload, a newline, and the result, which has none, unlike a payload of another program.

-- Most jobs end here, so this does the same as `finish` and `drop_entry` in fewer commands, per batch. What is kept of a
-- completed job's hash is what readers cannot know otherwise. Left out are `attempts` if it is 1, `started_at` if it
-- equals the fence, and the instance of the worker.
local ttl = text(retention_ms + BACKSTOP_MS)
local results, completed_ids, failed_ids, index_args, parts, entries, refused = {}, {}, {}, {}, {}, {}, 0
local taken = {}  -- number of jobs by their buckets in `durations`
local worker_id = string.match(lease_owner, '^[^@]*')
local known_buckets = {}  -- by moment: many jobs of a call have the same

-- The bucket of the time since `moment`; of what is not a time, the first one.
local function bucket_since(moment)
  local bucket = known_buckets[moment]
  if not bucket then
    local ms = now - (tonumber(moment) or now)
    bucket = ms > 1000 and math.min(math.ceil(math.log(ms / 1000) * BUCKETS_PER_LOG), LAST_BUCKET) or 0
    known_buckets[moment] = bucket
  end
  return bucket
end

for n = 1, items do
  local job, id, fence, record = item(n)
  local state = tolerate_damage(redis.pcall('HMGET', job, 'status', 'fence', 'lease_owner', 'entry', 'priority',
    'created_at', 'more'))
  local is_own = state[2] == fence
  local is_running = is_own and state[3] == lease_owner and state[1] == 'processing'
  local result_bytes = #record > MAX_DATA_BYTES and #string.match(record, '[^\n]*$') or 0
  if is_running and result_bytes > MAX_DATA_BYTES then
    fail_oversized(job, id, fence, string.sub(record, 1, -result_bytes - 2), result_bytes, retention_ms)
    results[n], failed_ids[#failed_ids + 1] = 'failed', id
  elseif is_running then
    redis.call('HSET', job, 'status', 'completed', 'lease_owner', worker_id)
    local attempts, started_at = '1', fence  -- of a first attempt
    if state[7] then attempts, started_at = unpack(redis.call('HMGET', job, 'attempts', 'started_at')) end
    redis.call('HDEL', job, 'entry', 'lease_ms', 'max_attempts', attempts == '1' and 'attempts' or 'entry',
      started_at == fence and 'started_at' or 'entry')
    redis.call('PEXPIRE', job, ttl)
    redis.call('SET', job .. ':result', record, 'PX', ttl)
    if state[7] then
      parts[#parts + 1] = job .. ':journal'
      parts[#parts + 1] = job .. ':history'
    end
    local stream = lane_stream(state[5])
    local list = entries[stream] or {}
    entries[stream], list[#list + 1] = list, state[4]
    completed_ids[#completed_ids + 1] = id
    index_args[2 * #completed_ids - 1], index_args[2 * #completed_ids] = now_text, id
    local buckets = bucket_since(fence) * 100 + bucket_since(state[6])  -- the fence is when the attempt started
    taken[buckets] = (taken[buckets] or 0) + 1
    results[n] = 'completed'
  elseif is_own and state[1] == 'completed' then
    results[n] = 'completed'  -- recorded before; the reply was lost
  elseif result_bytes > MAX_DATA_BYTES and redis.pcall('HGET', job, 'failed_fence') == fence then
    results[n] = 'failed'
  else
    results[n] = refusal(state[1])
    if results[n] == 'lost' then refused = refused + 1 end
  end
end
for stream, list in pairs(entries) do drop_entries(stream, list) end
if #completed_ids > 0 then
  redis.call('ZADD', completed, unpack(index_args))
  if redis.call('EXISTS', labels) == 1 then
    for _, id in ipairs(completed_ids) do moved(id, 'processing', 'completed') end
  end
  for n, part in ipairs(parts) do
    local is_present = redis.call('PEXPIRE', part, ttl) == 1
    if is_present and n % 2 == 0 then clear_hold(string.sub(part, 1, -#':history' - 1)) end
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
