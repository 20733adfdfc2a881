#!lua
-- Add new jobs to their lanes, or to the delayed index, or hold them; an id that exists changes nothing.
-- include: groups holds schedules seeds
-- rare: count_in_groups lane_stream
-- keys: stream_high stream_normal stream_low delayed held completed failed cancelled counters events bell labels groups schedules changes
-- args: max_backlog trace
-- each job: id payload terms labels extras
-- returns: per job: created | exists | full | sealed (its group takes no more jobs) | refused (too large, or
-- malformed: not sent by this client) | unknown_source | no_calls (`source` has none to take over) | past (the schedule is
-- done with this time) | paused (the schedule is) | changed (its missed times are to be counted again)
--
-- `trace` is the trace context that the jobs carry; empty: none.
-- `terms` are priority, delay in ms and attempts, in one text, because each argument costs time.
-- `extras` is empty, or a JSON object with some of:
-- - `hold`: why the job waits for an approval; it is held at once.
-- - `agents`: a digest of a debate's agents, a space, and what it is the digest of. The job is of an experiment, which its
--   group names, and is recorded there.
-- - `source`: the job whose finished calls, checkpoints `call/...`, the new one may take over: they are copied to its
--   journal as `seed/<source>/call/...`, with what the source itself may take over. They do not count in the journal's
--   `bytes`, but in `seeds`.
-- - `tick`: JSON that says why the job of a schedule is enqueued; see `include/schedules.lua`.

local capacity = tonumber(max_backlog) > 0 and room_below(max_backlog) or math.huge
local known_labels  -- of earlier jobs with the ids of this call, by id: labels may outlive the other keys

-- The records of experiments outlive their jobs, so that a debate that was deleted is not taken for a new one.
local records = {}  -- by key: fields and values

local held_ids, waiting = {}, 0
local last_terms, priority, delay_ms, max_attempts  -- most jobs of a call share them; without a priority: not numbers

-- Jobs get their labels and records before they are created, so that a failure in between leaves no job without them.
-- From the first job with labels or extras on, jobs are therefore created after the loop.
local results, created, labeled, uncreated, ticks = {}, {}, {}, {}, nil
local NONE = {}
for n = 1, items do
  local job, id, payload, terms, job_labels, extras = item(n)
  local is_valid, extra = true, NONE
  if extras ~= '' then
    is_valid, extra = pcall(cjson.decode, extras)
    is_valid = is_valid and type(extra) == 'table'
    for _, name in ipairs({'hold', 'agents', 'source', 'tick'}) do
      is_valid = is_valid and (extra[name] == nil or type(extra[name]) == 'string')
    end
    if not is_valid then extra = NONE end
  end
  local agents, tick = extra.agents or '', extra.tick
  local lack = extra.source and find_seeds(job, id, extra.source)
  if terms ~= last_terms then
    last_terms, priority, delay_ms, max_attempts = terms, string.match(terms, '^(%-?%d+) (%d+) (%d+)$')
  end
  local result
  if tick then
    ticks = ticks or create_ticks()
    result = ticks.refuse(tick)
  end
  if result then
    -- The schedule does not want it.
  elseif #payload + #agents > MAX_DATA_BYTES or #id > MAX_JOB_ID_CHARS or #job_labels > MAX_LABELS_BYTES
    or not priority or not is_valid then
    result = 'refused'
  elseif uncreated[id] then
    result = 'exists'
  else
    local found
    if known_labels then
      found = redis.call('EXISTS', job)
    else
      found, known_labels = redis.call('EXISTS', job, labels, labels), {}  -- 1 for the job, 2 if any job has labels
      if found >= 2 then
        local ids = {}
        for n = 1, items do ids[n] = select(2, item(n)) end
        for n, old_labels in ipairs(labels_of(ids)) do known_labels[ids[n]] = old_labels end
      end
    end
    local is_present, old_labels = found % 2 == 1, known_labels[id]
    known_labels[id] = nil  -- the job exists, or `is_free` deletes it: once
    if (is_present or old_labels) and not is_free(job, id, is_present, old_labels) then result = 'exists' end
  end
  if result then
    -- Nothing is created.
  elseif not extra.hold and waiting >= capacity then
    result = 'full'
  elseif job_labels ~= '' and get_groups().is_sealed(job_labels) then
    result = 'sealed'
  elseif lack then
    result = lack
  else
    if job_labels ~= '' then
      labeled[#labeled + 1] = id
      labeled[#labeled + 1] = job_labels
      local group = agents ~= '' and string.match(job_labels, '^group:(%S+)')
      local digest, description = string.match(agents, '^(%S+) (.*)$')
      if group and digest then
        local key = experiment_key(group)
        records[key] = records[key] or {}
        for _, each in ipairs({id, digest, 'agents:' .. digest, description}) do table.insert(records[key], each) end
      end
    end
    if job_labels == '' and extra == NONE and #uncreated == 0 then
      create_job(job, id, payload, priority, delay_ms, max_attempts)
      if trace ~= '' then redis.call('HSET', job, 'trace', trace) end
      created[#created + 1] = id
    else
      uncreated[#uncreated + 1], uncreated[id] = {job, id, payload, extra, priority, delay_ms, max_attempts, job_labels}, true
    end
    if not extra.hold then waiting = waiting + 1 end
    result = 'created'
  end
  results[n] = result
  if tick and (result == 'created' or result == 'exists') then
    ticks.add(job, id, tick, result == 'created')
  end
end

local is_complete, failure = true, nil
if #uncreated > 0 or ticks then
  is_complete, failure = pcall(function()
    if #labeled > 0 then get_groups().label(labeled) end
    for key, fields in pairs(records) do
      local reply = redis.pcall('HSET', key, unpack(fields))
      if type(reply) == 'table' then
        get_groups().unlabel(labeled)
        error(reply)
      end
      redis.call('PEXPIRE', key, EXPERIMENT_MS)
    end
    for _, each in ipairs(uncreated) do
      local job, id, payload, extra, priority, delay_ms, max_attempts, job_labels = unpack(each)
      if extra.source then write_seeds(job, extra.source) end
      if extra.hold then
        create_held(job, id, payload, priority, delay_ms, max_attempts, extra.hold)
        held_ids[#held_ids + 1] = id
      else
        create_job(job, id, payload, priority, delay_ms, max_attempts)
      end
      if trace ~= '' then redis.call('HSET', job, 'trace', trace) end
      created[#created + 1] = id
      if job_labels ~= '' then moved(id, nil, 'pending', job_labels) end
    end
    if ticks then ticks.settle() end
  end)
end
count('enqueued', #created)
count('held', #held_ids)
publish_event('enqueued', created)
publish_event('held', held_ids)
if not is_complete then  -- what was created stays, and the rest leaves nothing
  local is_created, rows = {}, {}
  for _, id in ipairs(created) do is_created[id] = true end
  for n = 1, #labeled, 2 do
    if not is_created[labeled[n]] then
      rows[#rows + 1] = labeled[n]
      rows[#rows + 1] = labeled[n + 1]
    end
  end
  if #rows > 0 then get_groups().unlabel(rows) end
  finish_call()
  error(failure)
end
finish_call()
return results
