-- Shared by every script that creates, moves, ends or deletes jobs: labels, and the counts of groups.
--
-- A label is `group:<name>`, `tenant:<name>`, `tag:<name>=<value>` or `notify:<webhook>`. The hash `labels` holds the
-- labels of each job that has any, separated by spaces, the group first; `members:<label>` lists the jobs that have a
-- label, except `notify`. Both are kept until the job is deleted, even if its own keys expire before.

local queue_prefix = string.sub(labels, 1, -#'labels' - 1)

local function group_key(name) return queue_prefix .. 'group:' .. name end
local function experiment_key(group) return queue_prefix .. 'experiment:' .. group end  -- rare
local function members_key(label) return queue_prefix .. 'members:' .. label end

-- The labels of jobs, in their order; false or nil for a job without labels.
local function labels_of(ids)
  if #ids == 0 or #ids > 1 and redis.call('EXISTS', labels) == 0 then return {} end
  local values = redis.pcall('HMGET', labels, unpack(ids))
  return values.err and {} or values  -- a key of another type
end

-- The labels, of these labels of a job, whose jobs are listed in `members:<label>`.
local function listed_labels(job_labels)
  return string.gmatch(string.gsub(' ' .. job_labels, ' notify:%S+', ''), '%S+')
end

-- True if a label is among these labels of a job.
local function has_label(job_labels, label)
  return string.find(' ' .. (job_labels or '') .. ' ', ' ' .. label .. ' ', 1, true) ~= nil
end

-- The same for the jobs of this call, whose items begin with an id.
local function labels_of_items()
  local ids = {}
  for n = 1, items do ids[n] = select(2, item(n)) end
  return labels_of(ids)
end

-- Create a job in the delayed index.
local function create_delayed(job, id, payload, delay_ms, max_attempts)  -- rare
  redis.call('ZADD', delayed, text(now + delay_ms), id)  -- first: if it fails, nothing has changed
  redis.call('SET', job .. ':payload', payload)
  redis.call('HSET', job, 'status', 'pending', 'max_attempts', max_attempts, 'created_at', now_text)
end

-- Create a job in its lane, or in the delayed index.
local function create_job(job, id, payload, priority, delay_ms, max_attempts)
  if delay_ms == '0' then
    local stream = priority == '0' and stream_normal or lane_stream(priority)
    local entry = append(stream, id, payload)  -- its id is the time of creation, too
    redis.call('HSET', job, 'status', 'pending', 'max_attempts', max_attempts, 'entry', entry)
  else
    create_delayed(job, id, payload, delay_ms, max_attempts)
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

-- Delete what is left of a job past retention, whatever it ended as.
local function delete_leftovers(job, id, job_labels)
  local last_status
  for _, status in ipairs({'completed', 'failed', 'cancelled'}) do
    if redis.call('ZREM', queue_prefix .. status, id) == 1 then last_status = status end
  end
  delete_job(job, id, last_status, job_labels)
end

-- True if no job has this id. A job past retention is unknown to readers: what is left of it is deleted, so that
-- its id can be used again.
local function is_free(job, id, is_present, job_labels)  -- rare
  if is_present and not is_past_retention(job) then return false end
  if is_present or job_labels then delete_leftovers(job, id, job_labels) end
  return true
end

-- Create the functions that change labels and groups. Most calls have only jobs without labels and need none.
local function create_groups()
  local STATE = {'created_at', 'sealed_at', 'ended_at', 'then', 'moves',
    'pending', 'processing', 'retrying', 'held', 'completed', 'failed', 'cancelled', 'purged'}
  local FIRST_COUNT, LAST_LIVE = 6, 9
  local states, group_names = {}, {}

  -- Change the members of each label of jobs: `rows` are an id, its labels, and so on. With `score`, it stands
  -- before each id. Returns the error if a key has another type.
  local function change_members(command, rows, score)
    local ids_of, failure = {}, nil  -- by labels: most jobs of a call have the same
    for n = 1, #rows, 2 do
      local ids = ids_of[rows[n + 1]] or {}
      ids_of[rows[n + 1]] = ids
      if score then ids[#ids + 1] = score end
      ids[#ids + 1] = rows[n]
    end
    for job_labels, ids in pairs(ids_of) do
      for label in listed_labels(job_labels) do
        local reply = redis.pcall(command, members_key(label), unpack(ids))
        if type(reply) == 'table' then failure = reply end
      end
    end
    return failure
  end

  -- Take jobs out of `labels` and out of the members of their labels.
  local function unlabel(rows)
    change_members('ZREM', rows)
    local ids = {}
    for n = 1, #rows, 2 do ids[#ids + 1] = rows[n] end
    redis.pcall('HDEL', labels, unpack(ids))
  end

  local function unlabel_deleted()
    if #deleted > 0 then unlabel(deleted) end
    deleted = {}
  end

  -- Give new jobs their labels, before they are created: `rows` are an id, its labels, and so on. Who creates them notes
  -- that they moved. Where a key has another type, this raises an error and leaves nothing.
  local function label(rows)
    unlabel_deleted()
    redis.call('HSET', labels, unpack(rows))
    local failure = change_members('ZADD', rows, now_text)
    if failure then
      unlabel(rows)
      error(failure)
    end
  end

  -- The group in labels; false if they have none.
  local function group_of(job_labels)
    local name = group_names[job_labels]
    if name == nil then
      name = string.match(job_labels, '^group:(%S+)') or false
      group_names[job_labels] = name
    end
    return name
  end

  -- What a group's hash holds, in the order of STATE; an error if it is a key of another type.
  local function group_state(name)
    states[name] = states[name] or redis.pcall('HMGET', group_key(name), unpack(STATE))
    return states[name]
  end

  -- True if the group of a job with these labels takes no more jobs.
  local function is_sealed(job_labels)
    local name = group_of(job_labels)
    local state = name and group_state(name) or {}
    if state.err then error(state) end
    return state[2]
  end

  -- True if a job has this id, or had it and is not deleted yet.
  local function is_taken(id)
    unlabel_deleted()
    return redis.call('EXISTS', queue_prefix .. 'job:' .. id) == 1 or labels_of({id})[1]
  end

  -- The job that was stored when the group was sealed; nil if another program deleted or changed it.
  local function read_then(key)
    local job = read(key, 'then_id', 'then_priority', 'then_delay_ms', 'then_max_attempts', 'then_labels',
      'then_trace')
    local payload = redis.pcall('GET', key .. ':then')
    if type(payload) ~= 'string' or not (job.then_id and job.then_labels and parse_int(job.then_priority)
      and parse_int(job.then_delay_ms) and parse_int(job.then_max_attempts)) then return nil end
    job.payload = payload
    return job
  end

  -- Enqueue the job that was stored when the group was sealed. If its id is taken, it gets another one.
  local function enqueue_then(key)
    local job = read_then(key)
    if not job then
      redis.call('HSET', key, 'then', 'lost')
      redis.call('DEL', key .. ':then')
      return
    end
    local id, suffix = job.then_id, now
    while is_taken(id) do
      id = string.sub(job.then_id, 1, MAX_JOB_ID_CHARS - 1 - #now_text) .. '.' .. text(suffix)
      suffix = suffix + 1
    end
    -- The job matters more than its labels.
    local is_labeled = job.then_labels ~= '' and pcall(label, {id, job.then_labels})
    local key_of_job, trace = queue_prefix .. 'job:' .. id, job.then_trace
    create_job(key_of_job, id, job.payload, job.then_priority, job.then_delay_ms, job.then_max_attempts)
    if trace and #trace <= MAX_TRACE_BYTES then redis.call('HSET', key_of_job, 'trace', trace) end
    if is_labeled then moved(id, nil, 'pending', job.then_labels) end
    redis.call('HSET', key, 'then', 'enqueued', 'then_id', id)
    redis.call('DEL', key .. ':then')  -- last: if the job cannot be created, it waits, and `doctor` finds it
    count('enqueued', 1)
    publish_event('enqueued', {id})
  end

  -- Put a message in the outbox of each webhook: `messages` are a webhook, what ended (job or group), its id or name,
  -- how it ended, and so on. Whatever is wrong with an outbox, the end itself must not fail: a message that cannot be
  -- kept is counted as dropped.
  local function post(messages)
    local total, room, dropped = #messages / 4, {}, 0
    local last = redis.pcall('HINCRBY', counters, 'notified', text(total))  -- for ids that differ within a millisecond
    if type(last) == 'table' then  -- not a number
      redis.pcall('HSET', counters, 'notified', text(total))
      last = total
    end
    for n = 1, total do
      local webhook, kind, subject, event = unpack(messages, 4 * n - 3, 4 * n)
      local outbox = queue_prefix .. 'outbox:' .. webhook
      local id = now_text .. '-' .. text(last - total + n)
      local delivery = queue_prefix .. 'delivery:' .. id
      if not room[webhook] then  -- noted there, it is known also while no process delivers its messages
        redis.pcall('HSETNX', queue_prefix .. 'webhooks', 'since:' .. webhook, now_text)
        local size = redis.pcall('ZCARD', outbox)
        room[webhook] = type(size) == 'number' and MAX_OUTBOX - size or 0
      end
      local is_kept = room[webhook] > 0 and type(redis.pcall('HSET', delivery, 'webhook', webhook, 'kind', kind,
        'subject', subject, 'event', event, 'at', now_text, 'queued_at', now_text)) == 'number'
      if is_kept then
        redis.pcall('PEXPIRE', delivery, text(DELIVERY_MS))
        is_kept = type(redis.pcall('ZADD', outbox, now_text, id)) == 'number'
      end
      if is_kept then room[webhook] = room[webhook] - 1 else dropped = dropped + 1 end
    end
    for webhook in pairs(room) do  -- no outbox outlives its messages, also if no process delivers them any more
      redis.pcall('PEXPIRE', queue_prefix .. 'outbox:' .. webhook, text(DELIVERY_MS))
    end
    if dropped > 0 then redis.pcall('HINCRBY', counters, 'deliveries_dropped', text(dropped)) end
  end

  -- End a group: it is sealed, and none of its jobs is live.
  local function end_group(key, then_status, retention_ms)
    redis.call('HSET', key, 'ended_at', now_text)
    redis.call('PEXPIRE', key, text(retention_ms + BACKSTOP_MS))
    if then_status == 'waiting' then enqueue_then(key) end
    local messages, name = {}, string.sub(key, #group_key('') + 1)
    for webhook in string.gmatch(read(key, 'notify').notify or '', '%S+') do
      for _, word in ipairs({webhook, 'group', name, 'ended'}) do messages[#messages + 1] = word end
    end
    if #messages > 0 then post(messages) end
  end

  -- Delete a group that has no jobs. A job that still waits for its end is enqueued: nothing else would.
  local function delete_group(name)
    local key = group_key(name)
    if read(key, 'then')['then'] == 'waiting' then enqueue_then(key) end
    redis.call('UNLINK', key, key .. ':then')
    redis.pcall('ZREM', groups, name)
  end

  -- Apply changes of a group's counts: create it with its first job, end it if it is sealed and its last job has
  -- ended, reopen it if a job runs again, delete it with its last member.
  local function update_group(name, delta, retention_ms)
    local key, state = group_key(name), group_state(name)
    if state.err then return end  -- a key of another type
    if delta.purged and redis.call('EXISTS', members_key('group:' .. name)) == 0 then
      delete_group(name)
      return
    end
    if not (state[1] or delta.has_new) then return end  -- expired before its jobs, or deleted by another program
    local fields, live = {'moves', text((parse_int(state[5]) or 0) + 1)}, 0
    if not state[1] then
      redis.pcall('ZADD', groups, now_text, name)
      fields[3], fields[4] = 'created_at', now_text
    end
    for n = FIRST_COUNT, #STATE do
      local change = delta[STATE[n]]
      if change or n <= LAST_LIVE then
        local total = math.max(0, (parse_int(state[n]) or 0) + (change or 0))  -- jobs of an expired group: not counted
        if n <= LAST_LIVE then live = live + total end
        if change then
          fields[#fields + 1] = STATE[n]
          fields[#fields + 1] = text(total)
        end
      end
    end
    redis.call('HSET', key, unpack(fields))
    states[name] = nil  -- read again if this call changes the group twice
    if live > 0 and state[3] then
      redis.call('HDEL', key, 'ended_at')
      redis.call('PERSIST', key)
    elseif live == 0 and state[2] and not state[3] and retention_ms then
      end_group(key, state[4], retention_ms)
    end
  end

  -- Count moves in the groups of their jobs: `rows` are labels, status before and after, and so on.
  local function count_moves(rows, retention_ms)
    unlabel_deleted()
    local deltas = {}
    for n = 1, #rows, 3 do
      local group, from, to = group_of(rows[n]), rows[n + 1], rows[n + 2]
      if group then
        local delta = deltas[group] or {}
        deltas[group] = delta
        if from then delta[from] = (delta[from] or 0) - 1 end
        delta.has_new = delta.has_new or not from and to == 'pending'
        delta[to] = (delta[to] or 0) + 1
      end
    end
    for group, delta in pairs(deltas) do update_group(group, delta, retention_ms) end
  end

  return {
    label = label, unlabel = unlabel, is_sealed = is_sealed, is_taken = is_taken, read_then = read_then,
    enqueue_then = enqueue_then, end_group = end_group, delete_group = delete_group, update_group = update_group,
    count_moves = count_moves, post = post, unlabel_deleted = unlabel_deleted,
  }
end

local group_functions

local function get_groups()  -- rare
  group_functions = group_functions or create_groups()
  return group_functions
end

-- Count what moved in groups, once the labels of all jobs that moved are known; report ends to the webhooks that the
-- labels name.
local function count_in_groups(retention_ms)
  if #deleted > 0 then get_groups().unlabel_deleted() end  -- a job with the same id is another one
  local ids, messages = {}, {}
  for n = 1, #moves, 3 do ids[#ids + 1] = moves[n] end
  for n, job_labels in ipairs(labels_of(ids)) do
    if job_labels then
      local from, to = moves[3 * n - 1], moves[3 * n]
      moved(ids[n], from, to, job_labels)
      if string.find(' completed failed cancelled ', ' ' .. to .. ' ', 1, true) then
        for webhook in string.gmatch(' ' .. job_labels, ' notify:(%S+)') do
          for _, word in ipairs({webhook, 'job', ids[n], to}) do messages[#messages + 1] = word end
        end
      end
    end
  end
  if #messages > 0 then get_groups().post(messages) end
  if #labeled_moves > 0 then get_groups().count_moves(labeled_moves, retention_ms) end
end

-- Note what this call changed in labels and groups, and wake workers. Every script that calls `moved` or `append`
-- calls this last; only a script that ends jobs needs `retention_ms`.
local function finish_call(retention_ms)
  if #moves > 0 or #labeled_moves > 0 then count_in_groups(retention_ms) end
  if appended > 0 then ring_bell() end
end
