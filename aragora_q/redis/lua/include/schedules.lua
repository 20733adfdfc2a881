-- Jobs of schedules. A tick says why one is enqueued: `schedule`, its name; `at`, the time that is due, `next`, the
-- time after that, and `last`, the last time that was done with when `missed`, the times in between that have no job,
-- were counted, all in ms (0: none); `by` and `reason`. Without `at`, an operator enqueues it. Job and time are one
-- transition: a time is done with once its job is in the queue, and afterwards no time up to it is enqueued.

-- Count times of a schedule that have no job.
local function count_missed(schedule, missed)
  if missed == 0 then return end
  local field = 'missed:' .. schedule
  if type(tolerate_damage(redis.pcall('HINCRBY', schedules, field, text(missed)))) == 'table' then  -- not a number
    redis.call('HSET', schedules, field, text(missed))
  end
  count('ticks_missed', missed)
end

-- Create the functions for the ticks of a call. Most calls have none.
local function create_ticks()  -- rare
  local done = {}

  -- Why the job of a tick is not enqueued: refused (malformed) | past | paused | changed (times in between may have a job
  -- by now); nil if it is to be.
  local function refuse(tick)
    local is_json, of = pcall(cjson.decode, tick)
    if not is_json or type(of) ~= 'table' then return 'refused' end
    for _, name in ipairs({'schedule', 'by', 'reason'}) do
      if type(of[name]) ~= 'string' then return 'refused' end
    end
    if not of.at then return nil end
    for _, name in ipairs({'at', 'next', 'last', 'missed'}) do
      if type(of[name]) ~= 'number' then return 'refused' end
    end
    local last, pause = unpack(redis.call('HMGET', schedules, 'last:' .. of.schedule, 'paused:' .. of.schedule))
    last = parse_time(last) or 0
    if last >= of.at then return 'past' end
    if pause then return 'paused' end
    return of.missed > 0 and last ~= of.last and 'changed' or nil
  end

  -- Remember that the job of a tick is in the queue: it `is_new`, or was there before.
  local function add(job, id, tick, is_new)
    done[#done + 1] = {job = job, id = id, of = cjson.decode(tick), is_new = is_new}
  end

  -- Note in the schedules what was added. Called last, because a job must not be lost if a call fails halfway.
  local function settle()
    for _, each in ipairs(done) do
      local of = each.of
      local function name(field) return field .. ':' .. of.schedule end
      redis.call('HSET', schedules, name('job'), each.id)
      if each.is_new then append_history(each.job, 'scheduled', {}, of.reason, of.by) end
      if of.at then
        redis.call('HSET', schedules, name('last'), text(of.at), name('next'), text(of.next))
        redis.call('HDEL', schedules, name('error'))
        if each.is_new then count('ticks', 1) end
        count_missed(of.schedule, of.missed)
      elseif each.is_new then
        note_change('run', 'schedule:' .. of.schedule, {each.id}, of.by, of.reason)
      end
    end
  end

  return {refuse = refuse, add = add, settle = settle}
end
