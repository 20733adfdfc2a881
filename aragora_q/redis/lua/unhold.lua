#!lua flags=allow-oom
-- Return held jobs to where they came from: their lane, or the delayed index. The hold that was asked of a running job
-- is withdrawn.
-- include: groups
-- keys: stream_high stream_normal stream_low delayed held counters events bell labels groups changes
-- args: causes by reason
-- each job: id
-- returns: per job: unheld | not-held (a live job) | unknown, the terminal status it has, or the cause of its hold,
-- if that is not one of `causes`
--
-- `causes` are separated by spaces. A hold whose time is over ends whatever its cause, except a person's. Without
-- `person` among the causes, a job keeps its place among the held ones, in case it is held again.

local may_free = {}
for cause in string.gmatch(causes, '%S+') do may_free[cause] = true end

-- True if this call may end the job's hold.
local function is_free_to_go(state, cause)
  local until_ms = parse_int(state.hold_until)
  return may_free[cause] or until_ms and until_ms <= now and cause ~= 'person'
end

-- Without a payload, which another program deleted, the job is made due: promote fails it, and says why.
local function return_job(job, id, state)
  local status, due = state.held_from == 'retrying' and 'retrying' or 'pending', parse_int(state.held_due) or 0
  local payload = redis.pcall('GET', job .. ':payload')
  redis.call('HSET', job, 'status', status)
  moved(id, 'held', status)
  if due > now or type(payload) ~= 'string' then
    redis.call('ZADD', delayed, text(math.max(due, now)), id)
  else
    redis.call('HSET', job, 'entry', append(lane_stream(state.priority), id, payload))
    redis.call('DEL', job .. ':payload')
  end
  redis.call('ZREM', held, id)
end

local results, unheld_ids, changed_ids = {}, {}, {}
for n = 1, items do
  local job, id = item(n)
  local state = read(job, 'status', 'priority', 'held_from', 'held_due', 'held_at', 'hold_cause', 'hold_until',
    'hold_asked', 'attempts')
  local is_held, cause = state.status == 'held', state.hold_cause or 'person'
  if not state.status or is_past_retention(job) then
    results[n] = 'unknown'
  elseif is_held or state.status == 'processing' and state.hold_asked then
    if is_free_to_go(state, cause) then
      if is_held then
        return_job(job, id, state)
        unheld_ids[#unheld_ids + 1] = id
      end
      clear_hold(job)
      note_actor(job, 'unheld', state, by, reason)
      if is_held and not may_free.person and state.held_at then redis.call('HSET', job, 'held_at', state.held_at) end
      results[n], changed_ids[#changed_ids + 1] = 'unheld', id
    else
      results[n] = cause
    end
  elseif state.status == 'pending' or state.status == 'processing' or state.status == 'retrying' then
    results[n] = 'not-held'
  else
    results[n] = state.status
  end
end
count('unheld', #unheld_ids)
publish_event('unheld', unheld_ids, 'by', by, 'reason', cut(reason))
if #changed_ids > 0 then note_changes('unhold', '', changed_ids, by, reason) end
finish_call()
return results
