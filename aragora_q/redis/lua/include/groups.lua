-- Shared by every script that creates, moves, ends or deletes jobs: labels, and the counts of groups.
--
-- A label is `group:<name>`, `tenant:<name>` or `tag:<name>=<value>`. The hash `labels` holds the labels of each
-- job that has any, separated by spaces, the group first; `members:<label>` lists the jobs that have a label. Both
-- are kept until the job is deleted, even if its own keys expire before.

local queue_prefix = string.sub(labels, 1, -#'labels' - 1)

local function group_key(name) return queue_prefix .. 'group:' .. name end
local function members_key(label) return queue_prefix .. 'members:' .. label end

-- The labels of jobs, in their order; false or nil for a job without labels.
local function labels_of(ids)
  if #ids == 0 or #ids > 1 and redis.call('EXISTS', labels) == 0 then return {} end
  local values = redis.pcall('HMGET', labels, unpack(ids))
  return values.err and {} or values  -- a key of another type
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

local deleted = {}  -- jobs with labels that this call deleted: an id, its labels, and so on

-- Delete a job that ended as `status`, with all its keys, but not its place in the index of ended jobs.
local function delete_job(job, id, status, job_labels)
  redis.call('UNLINK', job, job .. ':payload', job .. ':result', job .. ':history', job .. ':journal')
  if job_labels then
    deleted[#deleted + 1] = id
    deleted[#deleted + 1] = job_labels
    moved(id, status, 'purged', job_labels)
  end
end

local labeler

-- The functions that change labels and groups. Most calls have only jobs without labels, and a call pays for each
-- function that it creates: so these are created when they are needed.
local function get_labeler()
  if labeler then return labeler end
  local STATE = {'created_at', 'sealed_at', 'ended_at', 'then', 'moves',
    'pending', 'processing', 'retrying', 'completed', 'failed', 'cancelled', 'purged'}
  local states, sealed = {}, {}

  -- Change the members of each label of jobs: `rows` are an id, its labels, and so on. With `score`, it stands
  -- before each id.
  local function change_members(run, command, rows, score)
    local ids_of = {}  -- by labels: most jobs of a call have the same
    for n = 1, #rows, 2 do
      local ids = ids_of[rows[n + 1]] or {}
      ids_of[rows[n + 1]] = ids
      if score then ids[#ids + 1] = score end
      ids[#ids + 1] = rows[n]
    end
    for job_labels, ids in pairs(ids_of) do
      for label in string.gmatch(job_labels, '%S+') do run(command, members_key(label), unpack(ids)) end
    end
  end

  -- Take the deleted jobs out of the indexes of their labels.
  local function unlabel_deleted()
    if #deleted == 0 then return end
    change_members(redis.pcall, 'ZREM', deleted)
    local ids = {}
    for n = 1, #deleted, 2 do ids[#ids + 1] = deleted[n] end
    redis.call('HDEL', labels, unpack(ids))
    deleted = {}
  end

  -- Give new jobs their labels, before they are created: `rows` are an id, its labels, and so on.
  local function label(rows)
    unlabel_deleted()
    redis.call('HSET', labels, unpack(rows))
    change_members(redis.call, 'ZADD', rows, text(now_ms()))
    for n = 1, #rows, 2 do moved(rows[n], nil, 'pending', rows[n + 1]) end
  end

  -- What a group's hash holds, in the order of STATE; an error if it is a key of another type.
  local function group_state(name)
    states[name] = states[name] or redis.pcall('HMGET', group_key(name), unpack(STATE))
    return states[name]
  end

  -- True if the group of a job with these labels takes no more jobs.
  local function is_sealed(job_labels)
    if sealed[job_labels] == nil then
      local name = string.match(job_labels, '^group:(%S+)')
      local state = name and group_state(name) or {}
      if state.err then error(state) end
      sealed[job_labels] = state[2] and true or false
    end
    return sealed[job_labels]
  end

  -- Enqueue the job that was stored when the group was sealed. If its id is taken, it gets another one.
  local function enqueue_then(key)
    local id, priority, delay_ms, max_attempts, job_labels = unpack(redis.call('HMGET', key,
      'then_id', 'then_priority', 'then_delay_ms', 'then_max_attempts', 'then_labels'))
    local payload = redis.call('GET', key .. ':then')
    if not payload then
      redis.call('HSET', key, 'then', 'lost')  -- another program deleted it
      return
    end
    if redis.call('EXISTS', queue_prefix .. 'job:' .. id) == 1 then id = id .. '.' .. text(now_ms()) end
    if job_labels ~= '' then label({id, job_labels}) end
    create_job(queue_prefix .. 'job:' .. id, id, payload, priority, delay_ms, max_attempts)
    redis.call('HSET', key, 'then', 'enqueued', 'then_id', id)
    redis.call('DEL', key .. ':then')
    count('enqueued', 1)
    publish_event('enqueued', {id})
  end

  -- Apply changes of a group's counts: create it with its first job, end it if it is sealed and its last job has
  -- ended, reopen it if a job runs again, delete it with its last member.
  local function update_group(name, delta, retention_ms)
    local key, state = group_key(name), group_state(name)
    if state.err or not (state[1] or delta.has_new) then return end  -- deleted by another program
    local fields, live = {'moves', text((parse_int(state[5]) or 0) + 1)}, 0
    if not state[1] then
      local at = text(now_ms())
      redis.call('ZADD', groups, at, name)
      fields[3], fields[4] = 'created_at', at
    end
    for n = 6, #STATE do
      local change = delta[STATE[n]]
      if change or n <= 8 then
        local total = (parse_int(state[n]) or 0) + (change or 0)
        if n <= 8 then live = live + total end  -- pending, processing, retrying
        if change then
          fields[#fields + 1] = STATE[n]
          fields[#fields + 1] = text(total)
        end
      end
    end
    redis.call('HSET', key, unpack(fields))
    if delta.purged and redis.call('EXISTS', members_key('group:' .. name)) == 0 then
      redis.call('UNLINK', key, key .. ':then')
      redis.call('ZREM', groups, name)
    elseif live > 0 and state[3] then
      redis.call('HDEL', key, 'ended_at')
      redis.call('PERSIST', key)
    elseif live <= 0 and state[2] and not state[3] then
      redis.call('HSET', key, 'ended_at', text(now_ms()))
      redis.call('PEXPIRE', key, text(retention_ms + BACKSTOP_MS))
      if state[4] == 'waiting' then enqueue_then(key) end
    end
  end

  -- Count moves in the groups of their jobs: `rows` are labels, status before and after, and so on.
  local function count_moves(rows, retention_ms)
    unlabel_deleted()
    local deltas, group, group_labels = {}, nil, nil
    for n = 1, #rows, 3 do
      local job_labels, from, to = rows[n], rows[n + 1], rows[n + 2]
      if job_labels ~= group_labels then
        group, group_labels = string.match(job_labels, '^group:(%S+)'), job_labels
      end
      if group then
        local delta = deltas[group] or {}
        deltas[group] = delta
        if from then delta[from] = (delta[from] or 0) - 1 else delta.has_new = true end
        delta[to] = (delta[to] or 0) + 1
      end
    end
    for group, delta in pairs(deltas) do update_group(group, delta, retention_ms) end
  end

  labeler = {label = label, is_sealed = is_sealed, update_group = update_group, count_moves = count_moves}
  return labeler
end

-- Note what this call changed in labels and groups, and wake workers. Every script that calls `moved` or `append`
-- calls this last; only a script that ends jobs needs `retention_ms`.
local function finish_call(retention_ms)
  if #moves > 0 then
    local ids = {}
    for n = 1, #moves, 3 do ids[#ids + 1] = moves[n] end
    for n, job_labels in ipairs(labels_of(ids)) do
      if job_labels then moved(ids[n], moves[3 * n - 1], moves[3 * n], job_labels) end
    end
  end
  if #labeled_moves > 0 then get_labeler().count_moves(labeled_moves, retention_ms) end
  ring_bell()
end
