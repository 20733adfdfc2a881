#!lua flags=allow-oom
-- Take over the jobs of dead workers in one lane, and entries that were delivered but never started.
-- include: outage_grace groups holds
-- keys: stream stream_high stream_normal stream_low held failed counters events control workers bell delayed labels groups
-- args: job_prefix worker_prefix reclaimer claim_idle_ms max_crashes retention_ms limit cursor dry_run
-- returns: ok | in_grace_period, the next cursor (empty: this was the last page), then per entry taken
-- over: id, decision (reclaimed | poisoned | redelivered | held | malformed | dropped), worker, idle ms, crashes
--
-- A job's lease is the lease_ms in its hash; claim_idle_ms is used only for entries that were never started.
-- A job whose worker id has registered again with another instance id is taken over at once, even in a
-- grace period. A grace period starts when all workers were silent; a job is taken over when half of its
-- own lease has passed since then, or the whole period if that is shorter.
-- A job whose live owner does not renew it is redelivered, uncharged.
-- A job whose hold was asked is held instead of being reclaimed or redelivered.
-- Entries that a live worker renews are skipped by its record alone: no payload is read.

local is_dry = dry_run == '1'

-- Before the clock is read again: if the server was stopped since this call began, idle times that are taken later
-- would have grown while heartbeats and the clock had not, and no grace period would begin.
local pending = redis.pcall('XPENDING', stream, GROUP, cursor, '+', limit)
if pending.err then return {'ok', ''} end
now = now_ms()
now_text = text(now)
local grace_started_at, grace_until = start_grace_if_silent(tonumber(claim_idle_ms), is_dry)

local records = {}

-- The record of a worker: instance id, lease and time of registration.
local function record_of(worker_id)
  if not records[worker_id] then
    local values = redis.pcall('HMGET', worker_prefix .. worker_id, 'instance_id', 'lease_ms', 'registered_at')
    if values.err then values = {} end
    records[worker_id] = {
      instance_id = values[1], lease_ms = parse_int(values[2]), registered_at = parse_int(values[3]),
      heartbeat = tonumber(redis.call('ZSCORE', workers, worker_id) or nil),
    }
  end
  return records[worker_id]
end

-- True if the entry's worker is alive and has renewed the entry since it registered, less than a lease ago.
local function is_renewed(owner, idle)
  local record = record_of(owner)
  return record.heartbeat and record.lease_ms and record.registered_at
    and now - record.heartbeat < record.lease_ms and idle < record.lease_ms and idle > 0
    and now - idle > record.registered_at
end

local function has_expired(lease_ms, idle)
  local grace_ms = math.min(grace_until - grace_started_at, lease_ms / 2)
  return idle >= lease_ms and now >= grace_started_at + grace_ms
end

local function is_replaced(state)
  local worker_id, instance_id = owner_of(state)
  local current = worker_id and record_of(worker_id).instance_id
  return current and current ~= instance_id
end

-- True if the owner is alive but does not renew the lease: it does not know of it, because a failover lost its
-- report or it never got the reply to its start. That is not a crash, at most max_crashes times: a job whose report
-- the server always refuses must end, too.
local function is_orphaned(state)
  if (parse_int(state.orphaned) or 0) >= tonumber(max_crashes) then return false end
  local worker_id, instance_id = owner_of(state)
  local record = worker_id and record_of(worker_id) or {}
  return record.instance_id == instance_id and record.heartbeat and record.lease_ms and record.registered_at
    and record.heartbeat > record.registered_at and now - record.heartbeat < record.lease_ms / 2
end

local function classify(entry)
  local state = entry.state
  if state.status == 'processing' and state.entry == entry.entry_id then
    local lease_ms = state.lease_ms or tonumber(claim_idle_ms)
    if not has_expired(lease_ms, entry.idle) and not is_replaced(state) then return 'leased' end
    if not is_replaced(state) and is_orphaned(state) then return 'redelivered' end
    return state.crashes + 1 >= tonumber(max_crashes) and 'poisoned' or 'reclaimed'
  end
  if not has_expired(tonumber(claim_idle_ms), entry.idle) then return 'leased' end
  if entry.fields and not entry.job then return 'malformed' end
  if entry.fields and (state.entry == entry.entry_id or not state.status) then return 'redelivered' end
  return 'dropped'  -- deleted meanwhile, or a copy of a job that ended or waits elsewhere
end

local crashed = 0

-- Take an entry over; returns the decision, `held` if a hold was asked.
local function claim(entry, decision)
  -- A script is atomic, so the claim needs no minimum idle time.
  redis.call('XCLAIM', stream, GROUP, reclaimer, 0, entry.entry_id, 'JUSTID')
  if decision == 'malformed' then
    entry.id = dead_letter(stream, entry.entry_id, entry.fields, job_prefix, retention_ms)
    return decision
  end
  drop_entry(stream, entry.entry_id)
  if decision == 'dropped' then return decision end
  if decision == 'redelivered' and entry.state.hold_asked then
    enter_asked_hold(entry.job, entry.id, entry.payload, 'pending')
    redis.call('HSET', entry.job, 'attempts', entry.state.attempts - 1)
    redis.call('HDEL', entry.job, 'lease_owner')
    return 'held'
  end
  if decision == 'redelivered' then
    local added = append(stream, entry.id, entry.payload)
    if entry.state.status then  -- without a hash, the entry is enough
      redis.call('HSET', entry.job, 'entry', added)
      redis.call('HSETNX', entry.job, 'created_at', entry_ms(entry.entry_id))
    end
    if entry.state.status == 'processing' then
      redis.call('HSET', entry.job, 'status', 'pending', 'attempts', entry.state.attempts - 1,
        'orphaned', (parse_int(entry.state.orphaned) or 0) + 1)
      redis.call('HDEL', entry.job, 'lease_ms', 'lease_owner')
      moved(entry.id, 'processing', 'pending')
    end
    return decision
  end
  crashed = crashed + 1
  append_history(entry.job, 'crash', entry.state, 'worker ' .. entry.owner .. ' died or lost its lease: silent for '
    .. entry.idle .. ' ms, started at ' .. (entry.state.started_at or '?'))
  redis.call('HSET', entry.job, 'crashes', entry.state.crashes + 1, 'attempts', entry.state.attempts - 1)
  redis.call('HDEL', entry.job, 'lease_owner')  -- otherwise its late report would look like a repeated one
  if decision == 'poisoned' then
    redis.call('SET', entry.job .. ':payload', entry.payload)
    finish(entry.job, entry.id, 'processing', 'failed', failed, tonumber(retention_ms))
  elseif entry.state.hold_asked then
    enter_asked_hold(entry.job, entry.id, entry.payload, 'retrying')
    return 'held'
  else
    redis.call('HSET', entry.job, 'status', 'retrying', 'entry', append(stream, entry.id, entry.payload))
    redis.call('HDEL', entry.job, 'lease_ms')
    moved(entry.id, 'processing', 'retrying')
  end
  return decision
end

local reply = {grace_until > now and 'in_grace_period' or 'ok', ''}
local claimed = {reclaimed = {}, poisoned = {}, redelivered = {}, held = {}, malformed = {}, dropped = {}}

local function check(row)
  local entry = {entry_id = row[1], owner = row[2], idle = row[3], state = {}}
  if is_renewed(entry.owner, entry.idle) then return end
  if entry.idle == 0 and not is_dry then
    -- Delivered just now; or in the future, if the clock was set back, and then the lease would not
    -- expire until that time. Claiming it for its owner resets the idle time.
    redis.call('XCLAIM', stream, GROUP, entry.owner, 0, entry.entry_id, 'JUSTID')
  end
  entry.fields = fields_of(stream, entry.entry_id)
  entry.id, entry.payload = job_of(entry.fields or {})
  if entry.id and entry.payload then
    entry.job = job_prefix .. entry.id
    entry.state = read(entry.job, 'status', 'lease_owner', 'entry', 'lease_ms', 'attempts', 'crashes', 'started_at',
      'orphaned', 'hold_asked')
    entry.state.crashes = parse_int(entry.state.crashes) or 0
    entry.state.attempts = parse_int(entry.state.attempts) or 1
    entry.state.lease_ms = parse_int(entry.state.lease_ms)
  end
  local decision = classify(entry)
  if decision == 'leased' then return end
  if not is_dry then
    decision = claim(entry, decision)
  elseif entry.state.hold_asked and (decision == 'reclaimed' or decision == 'redelivered') then
    decision = 'held'
  end
  table.insert(claimed[decision], entry.id or entry.entry_id)
  reply[#reply + 1] = {entry.id or entry.entry_id, decision, entry.owner, entry.idle, entry.state.crashes or 0}
end

for _, row in ipairs(pending) do
  check(row)
  reply[2] = '(' .. row[1]
end
if #pending < tonumber(limit) then reply[2] = '' end
if not is_dry then
  count('crashed', crashed)
  count('reclaimed', #claimed.reclaimed)
  count('failed', #claimed.poisoned)
  count('redelivered', #claimed.redelivered)
  count('held', #claimed.held)
  count('malformed', #claimed.malformed)
  publish_event('reclaimed', claimed.reclaimed)
  publish_event('redelivered', claimed.redelivered)
  publish_event('held', claimed.held)
  publish_event('failed', claimed.poisoned)
  publish_event('failed', claimed.malformed)
  finish_call(retention_ms)
end
return reply
