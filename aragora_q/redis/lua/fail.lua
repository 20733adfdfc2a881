#!lua flags=allow-oom
-- End jobs whose error will not pass: dead letters, kept with payload and error.
-- keys: stream_high stream_normal stream_low failed counters events
-- args: lease_owner retention_ms
-- each job: id fence payload error
-- returns: one word per job: failed | cancelled | lost

local words, dead, refused = {}, {}, 0
for n = 1, items do
  local job, id, fence, payload, error_text = item(n)
  local state = read(job, 'status', 'fence', 'lease_owner', 'entry', 'priority', 'attempts')
  if owns_lease(state, lease_owner, fence) then
    drop_entry(lane_stream(state.priority), state.entry)
    redis.call('SET', job .. ':payload', payload)
    append_history(job, 'error', state, error_text)
    finish(job, id, 'failed', failed, tonumber(retention_ms))
    words[n], dead[#dead + 1] = 'failed', id
  elseif is_repeat(state, lease_owner, fence, 'failed') then
    words[n] = 'failed'
  else
    words[n] = refusal(state.status)
    if words[n] == 'lost' then refused = refused + 1 end
  end
end
count('failed', #dead)
count('refused', refused)
publish_event('failed', dead)
return words
