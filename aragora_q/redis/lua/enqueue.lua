#!lua
-- Add new jobs to their lanes, or to the delayed index, or hold them; an id that exists changes nothing.
-- include: groups holds schedules
-- keys: stream_high stream_normal stream_low delayed held completed failed cancelled counters events bell labels groups schedules changes
-- args: max_backlog
-- each job: id payload terms labels extras
-- returns: per job: created | exists | full | sealed (its group takes no more jobs) | refused (too large, or not
-- numbers: not sent by this client) | unknown_source | no_calls (`source` has none to take over) | past (the schedule is
-- done with this time) | paused (the schedule is) | changed (its missed times are to be counted again)
--
-- `terms` are priority, delay in ms and attempts, in one text, because each argument costs time.
-- `extras` is empty, or a JSON object with some of:
-- - `hold`: why the job waits for an approval; it is held at once.
-- - `agents`: a digest of a debate's agents, a space, and what it is the digest of. The job is of an experiment, which its
--   group names, and is recorded there.
-- - `source`: the job whose finished calls, checkpoints `call/...`, the new one may take over: they are copied to its
--   journal as `seed/<source>/call/...`, with what the source itself may take over. They do not count in the journal's
--   `bytes`, but in `seeds`.
-- - `tick`: JSON that says why the job of a schedule is enqueued; see `include/schedules.lua`.

local capacity = math.huge
if tonumber(max_backlog) > 0 then
  capacity = max_backlog - redis.call('ZCARD', delayed)
  for _, stream in ipairs({stream_high, stream_normal, stream_low}) do
    local length = redis.call('XLEN', stream)
    if length > 0 then capacity = capacity - length + (group_info(stream).pending or 0) end
  end
end

local known_labels  -- of earlier jobs with the ids of this call, by id: labels may outlive the other keys

local function exists(job, id)
  local found
  if known_labels then
    found = redis.call('EXISTS', job)
  else
    found, known_labels = redis.call('EXISTS', job, labels, labels), {}  -- 1 for the job, 2 if any job has labels
    if found >= 2 then
      local ids = {}
      for n = 1, items do ids[n] = select(2, item(n)) end
      for n, job_labels in ipairs(labels_of(ids)) do known_labels[ids[n]] = job_labels end
    end
  end
  local job_labels = known_labels[id]
  known_labels[id] = nil  -- the job exists, or `is_free` deletes it: once
  return not is_free(job, id, found % 2 == 1, job_labels)
end

local seeds_by_job = {}

-- Remember what `job` may take over from `source`; returns why that is nothing.
local function find_seeds(job, id, source)
  local source_job = string.sub(job, 1, -#id - 1) .. source
  if not read(source_job, 'status').status or is_past_retention(source_job) then return 'unknown_source' end
  local journal = tolerate_damage(redis.pcall('HGETALL', source_job .. ':journal'))
  local own, inherited, begun = {}, {}, nil
  for n = 1, #journal, 2 do
    local name, value = journal[n], journal[n + 1]
    local kind = string.sub(name, 1, 16)
    if kind == 'checkpoint:call/' then
      own[#own + 1] = {'checkpoint:seed/' .. source .. '/' .. string.sub(name, 12), value}
    elseif name == 'checkpoint:begun' or (name == 'checkpoint:seed/begun' and not begun) then
      begun = value
    elseif kind == 'checkpoint:seed/' and name ~= 'checkpoint:seed/begun' then
      inherited[#inherited + 1] = {name, value}
    end
  end
  local seeds, bytes = {}, 0
  for _, list in ipairs({own, inherited}) do
    for _, seed in ipairs(list) do
      bytes = bytes + #seed[1] + #seed[2]
      if bytes <= MAX_SEED_BYTES then seeds[#seeds + 1] = seed end
    end
  end
  if #seeds == 0 or not begun then return 'no_calls' end
  seeds[#seeds + 1] = {'checkpoint:seed/begun', begun}
  seeds_by_job[job .. ' ' .. source] = seeds
end

local function write_seeds(job, source)
  local seeds = seeds_by_job[job .. ' ' .. source]
  for _, seed in ipairs(seeds) do redis.call('HSET', job .. ':journal', seed[1], seed[2]) end
  redis.call('HSET', job .. ':journal', 'seeds', #seeds)
  note_more(job)
end

-- The records of experiments outlive their jobs, so that a debate that was deleted is not taken for a new one.
local records = {}  -- by key: fields and values

local held_ids, waiting = {}, 0
local last_terms, priority, delay_ms, max_attempts  -- those of the last job that was read

-- Read the terms of a job, which most jobs of a call share; returns false if they are not numbers.
local function read_terms(terms)
  if terms ~= last_terms then
    last_terms, priority, delay_ms, max_attempts = terms, string.match(terms, '^(%-?%d+) (%d+) (%d+)$')
  end
  return priority ~= nil
end

local function create(job, id, payload, terms, extra)
  read_terms(terms)
  if extra.source then write_seeds(job, extra.source) end
  if not extra.hold then
    create_job(job, id, payload, priority, delay_ms, max_attempts)
    return
  end
  redis.call('SET', job .. ':payload', payload)
  redis.call('HSET', job, 'max_attempts', max_attempts, 'created_at', now_text)
  if priority ~= '0' then redis.call('HSET', job, 'priority', priority) end
  write_hold(job, {}, 'approval', 'enqueue', extra.hold, '', '')
  enter_held(job, id, 'pending', 'pending', delay_ms ~= '0' and now + delay_ms, now_text)
  held_ids[#held_ids + 1] = id
end

-- Jobs get their labels and records before they are created, so that a failure in between leaves no job without them.
-- From the first job with labels on, jobs are therefore created after the loop.
local results, created, labeled, uncreated, ticks = {}, {}, {}, {}, nil
local NONE = {}
for n = 1, items do
  local job, id, payload, terms, job_labels, extras = item(n)
  local extra = extras == '' and NONE or cjson.decode(extras)
  local agents, tick = extra.agents or '', extra.tick
  local lack = extra.source and find_seeds(job, id, extra.source)
  local refusal
  if tick then
    ticks = ticks or create_ticks()
    refusal = ticks.refuse(tick)
  end
  if refusal then
    results[n] = refusal
  elseif #payload + #agents > MAX_DATA_BYTES or #id > MAX_JOB_ID_CHARS or #job_labels > MAX_LABELS_BYTES
    or not read_terms(terms) then
    results[n] = 'refused'
  elseif uncreated[id] or exists(job, id) then
    results[n] = 'exists'
  elseif not extra.hold and waiting >= capacity then
    results[n] = 'full'
  elseif job_labels ~= '' and get_groups().is_sealed(job_labels) then
    results[n] = 'sealed'
  elseif lack then
    results[n] = lack
  else
    if job_labels ~= '' then
      labeled[#labeled + 1] = id
      labeled[#labeled + 1] = job_labels
      local group = agents ~= '' and string.match(job_labels, '^group:(%S+)')
      local digest, description = string.match(agents, '^(%S+) (.*)$')
      if group and digest then
        local key = queue_prefix .. 'experiment:' .. group
        records[key] = records[key] or {}
        for _, each in ipairs({id, digest, 'agents:' .. digest, description}) do table.insert(records[key], each) end
      end
    end
    if #labeled == 0 then
      create(job, id, payload, terms, extra)
    else
      uncreated[#uncreated + 1], uncreated[id] = {job, id, payload, terms, extra}, true
    end
    created[#created + 1] = id
    if not extra.hold then waiting = waiting + 1 end
    results[n] = 'created'
  end
  if tick and (results[n] == 'created' or results[n] == 'exists') then
    ticks.add(job, id, tick, results[n] == 'created')
  end
end
if #labeled > 0 then get_groups().label(labeled) end
for key, fields in pairs(records) do
  local reply = redis.pcall('HSET', key, unpack(fields))
  if type(reply) == 'table' then  -- a key of another type
    get_groups().unlabel(labeled)
    error(reply)
  end
  redis.call('PEXPIRE', key, text(EXPERIMENT_MS))
end
for _, each in ipairs(uncreated) do create(unpack(each)) end
if ticks then ticks.settle() end
count('enqueued', #created)
count('held', #held_ids)
publish_event('enqueued', created)
publish_event('held', held_ids)
finish_call()
return results
