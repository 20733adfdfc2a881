#!lua flags=allow-oom
-- Pause a schedule, resume it, or forget it.
-- keys: events schedules changes
-- args: action name next_ms by reason
-- returns: changed | unchanged (it is paused, is not paused, or is not known)
--
-- A schedule that resumes is done with all times up to now; `next_ms` is when it is due next. Forgotten, it is as one
-- that was never known.

local paused = 'paused:' .. name
local function is_known(field) return redis.call('HEXISTS', schedules, field) == 1 end

if action == 'pause' then
  if is_known(paused) then return 'unchanged' end
  redis.call('HSET', schedules, paused, cjson.encode({at = now, by = by, reason = cut(reason)}))
elseif action == 'resume' then
  if not is_known(paused) then return 'unchanged' end
  redis.call('HDEL', schedules, paused)
  redis.call('HSET', schedules, 'last:' .. name, now_text)
  if next_ms ~= '' then redis.call('HSET', schedules, 'next:' .. name, next_ms) end
else
  local fields = {}
  for n, field in ipairs({'last:', 'next:', 'job:', 'missed:', 'paused:', 'error:'}) do fields[n] = field .. name end
  if redis.call('HDEL', schedules, unpack(fields)) == 0 then return 'unchanged' end
end
local done = {pause = 'schedule_paused', resume = 'schedule_resumed', forget = 'schedule_forgotten'}
redis.call('XADD', events, 'MAXLEN', '~', MAX_EVENTS, '*',
  'event', done[action], 'schedule', name, 'by', by, 'reason', cut(reason))
note_change(action, 'schedule:' .. name, {}, by, reason)
return 'changed'
