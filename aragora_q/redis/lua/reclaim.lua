#!lua flags=allow-oom
-- Take over, in one lane, the jobs of workers that died, and deliveries that never became a start.
-- include: outage_grace
-- keys: stream failed counters events control workers
-- args: job_prefix worker_prefix reclaimer claim_idle_ms max_crashes retention_ms limit cursor dry_run
-- returns: a word (ok | braked), the next cursor ('' at the end), then per entry taken: id, word
-- (reclaimed | poisoned | redelivered | dropped), worker, idle ms, crashes
--
-- A lease is as long as the job's own lease_ms; claim_idle_ms holds only for entries never started.
-- A job whose lease_owner's worker id has come back under another boot is taken at once, braked or not.

start_grace_if_silent(tonumber(claim_idle_ms))
local braked = (tonumber(redis.call('HGET', control, 'grace_until')) or 0) > now  -- strangers write words

local pending = redis.pcall('XPENDING', stream, GROUP, cursor, '+', limit)
if pending.err then return {'ok', ''} end

local function is_over(lease_ms, idle)
  return not braked and idle >= tonumber(lease_ms)
end

local function is_replaced(state)
  local worker_id, instance_id = string.match(state.lease_owner or '', '^(.*)@(.*)$')
  local current = worker_id and redis.call('HGET', worker_prefix .. worker_id, 'instance_id')
  return current and current ~= instance_id
end

local function fate(each)
  local state, entry, idle = each.state, each.entry, each.idle
  if state.status == 'processing' and state.entry == entry then
    if not is_over(state.lease_ms or claim_idle_ms, idle) and not is_replaced(state) then return 'held' end
    return state.crashes + 1 >= tonumber(max_crashes) and 'poisoned' or 'reclaimed'
  end
  if not is_over(claim_idle_ms, idle) then return 'held' end
  if each.fields and (state.entry == entry or not state.status) then return 'redelivered' end
  return 'dropped'  -- deleted under us, or a copy of a job that ended or waits elsewhere
end

local function take(each, word)
  -- Inside a script nothing can come between: no minimum idle time is needed to win the entry.
  redis.call('XCLAIM', stream, GROUP, reclaimer, 0, each.entry, 'JUSTID')
  drop_entry(stream, each.entry)
  if word == 'dropped' then return end
  if word == 'redelivered' then
    local entry = redis.call('XADD', stream, '*', unpack(each.fields))
    if each.state.status then  -- else there is no hash, and the entry alone will do
      redis.call('HSET', each.job, 'entry', entry)
      redis.call('HSETNX', each.job, 'created_at', entry_ms(each.entry))
    end
    return
  end
  append_history(each.job, 'crash', each.state, 'worker ' .. each.owner .. ' died or lost its lease: silent for '
    .. each.idle .. ' ms, started at ' .. (each.state.started_at or '?'))
  redis.call('HSET', each.job, 'crashes', each.state.crashes + 1, 'attempts', each.state.attempts - 1)
  redis.call('HDEL', each.job, 'lease_owner')  -- or its late report would pass for one we have answered
  if word == 'poisoned' then
    redis.call('SET', each.job .. ':payload', each.payload)
    finish(each.job, each.id, 'failed', failed, tonumber(retention_ms))
  else
    redis.call('HSET', each.job, 'status', 'retrying', 'entry', append(stream, each.id, each.payload))
    redis.call('HDEL', each.job, 'lease_ms')
  end
end

local reply, taken = {braked and 'braked' or 'ok', ''}, {reclaimed = {}, poisoned = {}, redelivered = {}, dropped = {}}
for _, row in ipairs(pending) do
  local each = {entry = row[1], owner = row[2], idle = row[3], state = {}}
  if each.idle == 0 and dry_run == '0' then
    -- Delivered just now, or in the future: the clock was set back since, and the lease would not run out until then.
    redis.call('XCLAIM', stream, GROUP, each.owner, 0, each.entry, 'JUSTID')
  end
  each.fields = fields_of(stream, each.entry)
  each.id, each.payload = job_of(each.fields or {})
  if each.id and each.payload then
    each.job = job_prefix .. each.id
    each.state = read(each.job, 'status', 'lease_owner', 'entry', 'lease_ms', 'attempts', 'crashes', 'started_at')
    each.state.crashes = parse_int(each.state.crashes) or 0
    each.state.attempts = parse_int(each.state.attempts) or 1
    each.state.lease_ms = parse_int(each.state.lease_ms)
  end
  local word = fate(each)
  if word ~= 'held' then
    if dry_run == '0' then take(each, word) end
    table.insert(taken[word], each.id or each.entry)
    reply[#reply + 1] = {each.id or each.entry, word, each.owner, each.idle, each.state.crashes or 0}
  end
  reply[2] = '(' .. each.entry
end
if #pending < tonumber(limit) then reply[2] = '' end
if dry_run == '0' then
  count('crashed', #taken.reclaimed + #taken.poisoned)
  count('reclaimed', #taken.reclaimed)
  count('failed', #taken.poisoned)
  count('redelivered', #taken.redelivered)
  publish_event('reclaimed', taken.reclaimed)
  publish_event('failed', taken.poisoned)
end
return reply
