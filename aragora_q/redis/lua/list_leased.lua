#!lua flags=allow-oom
-- List one page of the jobs of a lane that a worker has leased and that have been idle for a minimum time.
-- keys: stream
-- args: job_prefix worker_id lease_owner min_idle_ms after limit
-- returns: where the next page begins (empty: this was the last), then per job: id, fence

local pending = redis.pcall('XPENDING', stream, GROUP, 'IDLE', min_idle_ms, after, '+', limit, worker_id)
if pending.err then return {''} end
local reply = {#pending == tonumber(limit) and '(' .. pending[#pending][1] or ''}
for _, row in ipairs(pending) do
  local id = job_of(fields_of(stream, row[1]) or {})
  local state = id and read(job_prefix .. id, 'status', 'lease_owner', 'entry', 'fence') or {}
  if state.status == 'processing' and state.lease_owner == lease_owner and state.entry == row[1] then
    reply[#reply + 1] = {id, state.fence}
  end
end
return reply
