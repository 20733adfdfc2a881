#!lua flags=allow-oom
-- Set when schedules are due next, and note which of their times are done with although no job was enqueued.
-- include: schedules
-- keys: counters schedules
-- args:
-- each schedule: name seen_last_ms last_ms missed next_ms error
-- returns: per schedule: planned | changed (it is not as it was read: nothing was set)
--
-- `seen_last_ms` is the last time as it was read, empty if there was none: so each time counts once, however many
-- processes note it. `last_ms`, if it is not empty, is the time up to which the schedule is done. A schedule without
-- one is done with all times before the next one, which may have come meanwhile. `missed` of these times have no job;
-- `error`, if it is not empty, is why.

local results = {}
for n = 1, items do
  local name, seen_last_ms, last_ms, missed, next_ms, error = item(n)
  local stored = redis.call('HGET', schedules, 'last:' .. name)
  stored = parse_time(stored) and stored or ''  -- damaged: as if there were none
  if stored ~= seen_last_ms then
    results[n] = 'changed'
  else
    if last_ms == '' and stored == '' then last_ms = text(math.min(now, tonumber(next_ms) - 1)) end
    if last_ms ~= '' then redis.call('HSET', schedules, 'last:' .. name, last_ms) end
    redis.call('HSET', schedules, 'next:' .. name, next_ms)
    count_missed(name, tonumber(missed))
    if error ~= '' then redis.call('HSET', schedules, 'error:' .. name, error) end
    results[n] = 'planned'
  end
end
return results
