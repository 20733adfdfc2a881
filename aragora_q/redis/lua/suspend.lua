#!lua flags=allow-oom
-- Hold jobs as their attempts report: uncharged, until they are freed.
-- include: groups holds
-- keys: stream_high stream_normal stream_low delayed held counters events bell labels groups
-- args: lease_owner
-- each job: id fence payload cause by reason until_ms usd
-- returns: per job: held | cancelled | lost
--
-- `until_ms` is a duration, `usd` are millionths of a US dollar that the job needs; both may be empty. If a person
-- asked for a hold meanwhile, the hold is the person's. A job that was freed automatically, and is held for such a
-- cause again, keeps its place among the held ones.

local results, held_ids, refused = {}, {}, 0
for n = 1, items do
  local job, id, fence, payload, cause, by, reason, until_ms, usd = item(n)
  local state = read(job, 'status', 'fence', 'lease_owner', 'entry', 'priority', 'attempts', 'suspended_fence',
    'hold_asked', 'held_at')
  if owns_lease(state, lease_owner, fence) then
    if state.hold_asked then
      append_history(job, 'deferred', state, reason)
      enter_asked_hold(job, id, payload, 'retrying')
    else
      local is_automatic = string.find(AUTOMATIC_CAUSES, ' ' .. cause .. ' ', 1, true)
      redis.call('SET', job .. ':payload', payload)
      enter_held(job, id, 'processing', 'retrying', nil, is_automatic and state.held_at or now_text)
      write_hold(job, state, cause, by, reason, until_ms, usd)
    end
    redis.call('HSET', job, 'attempts', (parse_int(state.attempts) or 1) - 1, 'suspended_fence', fence)
    drop_entry(lane_stream(state.priority), state.entry)
    results[n], held_ids[#held_ids + 1] = 'held', id
  elseif state.suspended_fence == fence then
    results[n] = 'held'  -- recorded before; the job may have moved on since
  else
    results[n] = refusal(state.status)
    if results[n] == 'lost' then refused = refused + 1 end
  end
end
count('held', #held_ids)
count('refused', refused)
publish_event('held', held_ids)
finish_call()
return results
