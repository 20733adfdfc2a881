-- Shared by every script that creates, moves, ends or deletes jobs: labels, and the counts of groups.
--
-- A label is `group:<name>`, `tenant:<name>` or `tag:<name>=<value>`. The hash `labels` holds the labels of each
-- job that has any, separated by spaces, the group first; `members:<label>` lists the jobs that have a label. Both
-- are kept until the job is deleted, even if its own keys expire before.

local queue_prefix = string.sub(labels, 1, -#'labels' - 1)

local function group_key(name) return queue_prefix .. 'group:' .. name end
local function members_key(label) return queue_prefix .. 'members:' .. label end

local COUNTED = {'pending', 'processing', 'retrying', 'completed', 'failed', 'cancelled', 'purged'}

-- The labels of jobs, in their order; false or nil for a job without labels.
local function labels_of(ids)
  local values = #ids > 0 and redis.pcall('HMGET', labels, unpack(ids)) or {}
  return values.err and {} or values  -- a key of another type
end

-- Give new jobs their labels, before they are created: `rows` are an id, its labels, and so on. If a key of another
-- type is where an index should be, this fails before anything is written.
local function label_jobs(rows)
  if #rows == 0 then return end
  local added = {}
  redis.call('ZCARD', groups)
  for n = 1, #rows, 2 do
    for label in string.gmatch(rows[n + 1], '%S+') do
      local scored = added[label]
      if not scored then
        scored = {}
        added[label] = scored
        redis.call('ZCARD', members_key(label))
      end
      scored[#scored + 1] = now_text
      scored[#scored + 1] = rows[n]
    end
    moved(rows[n], nil, 'pending', rows[n + 1])
  end
  redis.call('HSET', labels, unpack(rows))
  for label, scored in pairs(added) do
    redis.call('ZADD', members_key(label), unpack(scored))
    local name = string.match(label, '^group:(.*)')
    if name and redis.call('HSETNX', group_key(name), 'created_at', now_text) == 1 then
      redis.call('ZADD', groups, now_text, name)
    end
  end
end

-- Take a deleted job out of the indexes of its labels.
local function unlabel(id, job_labels)
  for label in string.gmatch(job_labels, '%S+') do redis.pcall('ZREM', members_key(label), id) end
  redis.call('HDEL', labels, id)
end

-- Delete a job that ended as `status`, with all its keys, but not its place in the index of ended jobs.
local function delete_job(job, id, status, job_labels)
  redis.call('UNLINK', job, job .. ':payload', job .. ':result', job .. ':history', job .. ':journal')
  if job_labels then
    unlabel(id, job_labels)
    moved(id, status, 'purged', job_labels)
  end
end

-- Create a job in its lane, or in the delayed index.
local function create_job(job, id, payload, priority, delay_ms, max_attempts)
  if delay_ms == '0' then
    local entry = append(lane_stream(priority), id, payload)  -- its id is the time of creation, too
    redis.call('HSET', job, 'status', 'pending', 'max_attempts', max_attempts, 'entry', entry)
  else
    local at = now_ms()
    redis.call('SET', job .. ':payload', payload)
    redis.call('ZADD', delayed, text(at + delay_ms), id)
    redis.call('HSET', job, 'status', 'pending', 'max_attempts', max_attempts, 'created_at', text(at))
  end
  if priority ~= '0' then redis.call('HSET', job, 'priority', priority) end
end

-- True if a job has this id, or had it and is not deleted yet.
local function is_taken(id)
  return redis.call('EXISTS', queue_prefix .. 'job:' .. id) == 1 or labels_of({id})[1]
end

-- Enqueue the job that was stored when the group was sealed. If its id is taken, it gets another one.
local function enqueue_then(key)
  local wanted_id, priority, delay_ms, max_attempts, job_labels = unpack(redis.call('HMGET', key,
    'then_id', 'then_priority', 'then_delay_ms', 'then_max_attempts', 'then_labels'))
  local payload = redis.pcall('GET', key .. ':then')
  redis.call('DEL', key .. ':then')
  if not (type(payload) == 'string' and wanted_id and job_labels and parse_int(priority) and parse_int(delay_ms)
    and parse_int(max_attempts)) then
    redis.call('HSET', key, 'then', 'lost')  -- another program deleted or changed it
    return
  end
  local id, suffix = wanted_id, now
  while is_taken(id) do
    id = string.sub(wanted_id, 1, MAX_JOB_ID_CHARS - 1 - #now_text) .. '.' .. text(suffix)
    suffix = suffix + 1
  end
  if job_labels ~= '' then pcall(label_jobs, {id, job_labels}) end  -- the job matters more than its labels
  create_job(queue_prefix .. 'job:' .. id, id, payload, priority, delay_ms, max_attempts)
  redis.call('HSET', key, 'then', 'enqueued', 'then_id', id)
  count('enqueued', 1)
  publish_event('enqueued', {id})
end

-- End a group: it is sealed and none of its jobs is live.
local function end_group(key, then_status, retention_ms)
  redis.call('HSET', key, 'ended_at', now_text)
  redis.call('PEXPIRE', key, text(retention_ms + BACKSTOP_MS))
  if then_status == 'waiting' then enqueue_then(key) end
end

-- Apply changes of a group's counts: end it if it is sealed and its last job has ended, reopen it if a job runs
-- again, delete it with its last member.
local function count_in_group(name, delta, retention_ms)
  local key = group_key(name)
  if delta.purged and redis.call('EXISTS', members_key('group:' .. name)) == 0 then
    redis.call('UNLINK', key, key .. ':then')
    redis.pcall('ZREM', groups, name)
    return
  end
  local state = redis.pcall('HMGET', key, 'created_at', 'sealed_at', 'ended_at', 'then', 'moves', unpack(COUNTED))
  if state.err or not state[1] then return end  -- expired, or deleted by another program
  local fields, live = {'moves', text((parse_int(state[5]) or 0) + 1)}, 0
  for n, status in ipairs(COUNTED) do
    local total = parse_int(state[5 + n]) or 0
    if delta[status] then
      total = math.max(0, total + delta[status])  -- jobs of an expired group of this name were never counted here
      fields[#fields + 1] = status
      fields[#fields + 1] = text(total)
    end
    if n <= 3 then live = live + total end
  end
  redis.call('HSET', key, unpack(fields))
  if live > 0 and state[3] then
    redis.call('HDEL', key, 'ended_at')
    redis.call('PERSIST', key)
  elseif live == 0 and state[2] and not state[3] and retention_ms then
    end_group(key, state[4], retention_ms)
  end
end

-- Count the moves of this call in the groups of the jobs, and wake workers. Every script that calls `moved` or
-- `append` calls this last; only a script that ends jobs needs `retention_ms`.
local function finish_call(retention_ms)
  if #moves > 0 then
    local unknown = {}
    for _, move in ipairs(moves) do
      if move.labels == nil then unknown[#unknown + 1] = move.id end
    end
    local found, next_found, deltas = labels_of(unknown), 0, {}
    for _, move in ipairs(moves) do
      local job_labels = move.labels
      if job_labels == nil then
        next_found = next_found + 1
        job_labels = found[next_found]
      end
      local group = job_labels and string.match(job_labels, '^group:(%S+)')
      if group then
        local delta = deltas[group] or {}
        deltas[group] = delta
        if move.from then delta[move.from] = (delta[move.from] or 0) - 1 end
        delta[move.to] = (delta[move.to] or 0) + 1
      end
    end
    for group, delta in pairs(deltas) do count_in_group(group, delta, retention_ms) end
  end
  ring_bell()
end
