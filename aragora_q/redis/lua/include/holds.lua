-- Shared by the scripts that hold jobs. Fields of a held job: `held_from`, the status that it returns to; `held_due`,
-- its due time, if it was delayed; `held_at`; `hold_cause`, `hold_by`, and, if there are, `hold_until` and `hold_usd`,
-- in millionths of a US dollar. A running job whose hold was asked has `hold_asked`, the time, `hold_cause` and
-- `hold_by`.

-- Remember who or what holds a job, and why.
local function write_hold(job, state, cause, by, reason, until_ms, usd)
  append_history(job, 'held', state, reason, by)
  redis.call('HSET', job, 'hold_cause', cause, 'hold_by', by)
  if until_ms == '' then redis.call('HDEL', job, 'hold_until')
  else redis.call('HSET', job, 'hold_until', text(now + until_ms)) end
  if usd == '' then redis.call('HDEL', job, 'hold_usd') else redis.call('HSET', job, 'hold_usd', usd) end
end

-- Hold a job that is in no lane and whose payload is in `:payload`: its status was `from`, and will be `back_to`.
-- The caller writes why: see `write_hold`.
local function enter_held(job, id, from, back_to, due, held_at)
  redis.call('ZADD', held, held_at, id)
  redis.call('HSET', job, 'status', 'held', 'held_from', back_to, 'held_at', held_at)
  if due then redis.call('HSET', job, 'held_due', text(due)) end
  redis.call('HDEL', job, 'entry', 'lease_ms', 'hold_asked')
  moved(id, from, 'held')
end

-- The same for a job that was running, and whose hold was asked meanwhile.
local function enter_asked_hold(job, id, payload, back_to, due)  -- rare
  redis.call('SET', job .. ':payload', payload)
  enter_held(job, id, 'processing', back_to, due, now_text)
end

-- Create a job that waits for an approval.
local function create_held(job, id, payload, priority, delay_ms, max_attempts, reason)  -- rare
  redis.call('ZADD', held, now_text, id)  -- first: if it fails, nothing has changed
  redis.call('SET', job .. ':payload', payload)
  redis.call('HSET', job, 'max_attempts', max_attempts, 'created_at', now_text)
  if priority ~= '0' then redis.call('HSET', job, 'priority', priority) end
  write_hold(job, {}, 'approval', 'enqueue', reason, '', '')
  enter_held(job, id, 'pending', 'pending', delay_ms ~= '0' and now + delay_ms, now_text)
end
