#!lua
-- Return failed and cancelled jobs to PENDING at the tail of their lane, with their attempts reset.
-- include: groups
-- keys: stream_high stream_normal stream_low failed cancelled counters events bell delayed labels groups changes
-- args: by reason from_phase
-- each job: id
-- returns: per job: requeued | unknown | malformed (the dead letter of a malformed entry) | not-reached, or the
-- status it has
--
-- Attempts, crashes and deferrals start at zero. History, journal and fence are kept, so that finished
-- work is not paid for twice and a late result from before the requeue is refused. Checkpoints named `life/...`
-- and a partial result are deleted.
--
-- With `from_phase`, the calls `call/<phase>...` of that phase of a debate and of later ones become `past/...`, which
-- count only for what they cost; decisions about these phases are deleted, and so are seeds of other debates for them:
-- neither this job nor a fork of it takes them over. `r1` is the first phase of that round that
-- the debate has reached.

local PLACES = {review = 1, escalation = 2, revise = 3, discuss = 3}
local RANKS = {propose = 0, escalation = 12, vote = 1e6, judge = 2e6, synthesize = 2e6}

-- The place of a phase in a debate; nil for what is not a phase. A seat that joins in round 1 proposes, too.
local function rank_of(phase)
  local round, name = string.match(phase, '^r(%d+)%.(%a+)$')
  if PLACES[name or ''] then return round * 10 + PLACES[name] end
  return RANKS[phase]
end

-- The rank of the phase of a call, such as `r1.review.0.0`.
local function rank_of_call(call)
  return rank_of(string.match(call, '^r%d+%.%a+') or string.match(call, '^%a+') or '')
end

-- The rank from which calls are to be made again; nil if there is none.
local function first_rank(journal)
  local names = tolerate_damage(redis.pcall('HKEYS', journal))
  local first
  for _, name in ipairs(names.err and {} or names) do
    local call = string.match(name, '^checkpoint:call/(.*)$')
    if call and string.sub(call, 1, #from_phase + 1) == from_phase .. '.' then
      local rank = rank_of_call(call)
      if rank and not (first and first <= rank) then first = rank end
    end
  end
  return first
end

local function discard_from(journal, first)
  local seeds = 0
  for _, name in ipairs(redis.call('HKEYS', journal)) do
    local kind, rest = string.match(name, '^checkpoint:(%l[%l_]*)/(.*)$')
    local rank
    if kind == 'seed' then
      rank = rank_of_call(string.match(rest, '^[^/]*/call/(.*)$') or '')
    elseif kind == 'call' or kind == 'given_up' then
      rank = rank_of_call(rest)
    elseif kind == 'decision' then
      rank = rank_of((string.gsub(rest, '^before_', '')))
    end
    if rank and rank >= first then
      if kind == 'call' then
        redis.call('HSET', journal, 'checkpoint:past/' .. rest, redis.call('HGET', journal, name))
      elseif kind == 'seed' then
        seeds = seeds + 1
      else
        local bytes = parse_int(redis.call('HGET', journal, 'bytes')) or 0
        local freed = redis.call('HSTRLEN', journal, name) + #name - 11  -- as checkpoint.lua counted it
        redis.call('HSET', journal, 'bytes', text(math.max(0, bytes - freed)))
      end
      redis.call('HDEL', journal, name)
    end
  end
  if seeds > 0 then  -- they do not count in `bytes`
    local count = parse_int(redis.call('HGET', journal, 'seeds')) or 0
    redis.call('HSET', journal, 'seeds', text(math.max(0, count - seeds)))
  end
end

local function delete_life_checkpoints(journal)
  local names = redis.pcall('HKEYS', journal)
  if names.err then return end  -- a key of another type
  local freed = 0
  for _, name in ipairs(names) do
    if string.sub(name, 1, 16) == 'checkpoint:life/' then
      freed = freed + redis.call('HSTRLEN', journal, name) + #name - 11  -- as checkpoint.lua counted it
      redis.call('HDEL', journal, name)
    end
  end
  if freed == 0 then return end
  local bytes = parse_int(redis.call('HGET', journal, 'bytes')) or 0
  redis.call('HSET', journal, 'bytes', text(math.max(0, bytes - freed)))
end

local results, requeued = {}, {}
for n = 1, items do
  local job, id = item(n)
  local state = read(job, 'status', 'priority', 'max_attempts', 'attempts')
  local first = from_phase ~= '' and first_rank(job .. ':journal')
  local payload = tolerate_damage(redis.pcall('GET', job .. ':payload'))
  if not state.status or is_past_retention(job) then
    results[n] = 'unknown'
  elseif state.status ~= 'failed' and state.status ~= 'cancelled' then
    results[n] = state.status
  elseif type(payload) ~= 'string' or state.max_attempts == '0' then  -- missing, or a key of another type
    results[n] = 'malformed'
  elseif from_phase ~= '' and not first then
    results[n] = 'not-reached'
  else
    redis.call('ZREM', state.status == 'failed' and failed or cancelled, id)
    redis.call('HDEL', job, 'attempts', 'crashes', 'deferrals', 'deferred_at', 'set_aside',
      'lease_owner', 'started_at', 'orphaned')
    redis.call('HSET', job, 'status', 'pending', 'entry', append(lane_stream(state.priority), id, payload))
    redis.call('UNLINK', job .. ':payload', job .. ':result')
    moved(id, state.status, 'pending')
    note_actor(job, 'requeued', state, by, reason)
    redis.call('PERSIST', job)
    redis.call('PERSIST', job .. ':history')
    redis.call('PERSIST', job .. ':journal')
    delete_life_checkpoints(job .. ':journal')
    if first then discard_from(job .. ':journal', first) end
    results[n], requeued[#requeued + 1] = 'requeued', id
  end
end
count('requeued', #requeued)
publish_event('requeued', requeued, 'by', by, 'reason', cut(reason))
if #requeued > 0 then note_changes('requeue', '', requeued, by, reason, from_phase ~= '' and 'from ' .. from_phase or '') end
finish_call()
return results
