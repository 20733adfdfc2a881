#!lua
-- Store a checkpoint of a running job for its later attempts.
-- keys:
-- args: lease_owner max_bytes max_checkpoints
-- each job: id fence name value
-- returns: per job: ok | lost | full (of bytes) | too_many

local results = {}
for n = 1, items do
  local job, _, fence, name, value = item(n)
  local journal = job .. ':journal'
  results[n] = 'lost'
  if owns_lease(read(job, 'status', 'fence', 'lease_owner'), lease_owner, fence) then
    local stored = parse_int(redis.call('HGET', journal, 'bytes'))
    if not stored then note_more(job) end
    stored = stored or 0
    local replaced = redis.call('HSTRLEN', journal, 'checkpoint:' .. name)
    local bytes = stored + #value - replaced + (replaced == 0 and #name or 0)
    local seeds = parse_int(redis.call('HGET', journal, 'seeds'))  -- how many came with the job
    local others = 2 + (seeds and seeds + 1 or 0)  -- `bytes` and `progress`, the seeds and their number
    if replaced == 0 and redis.call('HLEN', journal) >= max_checkpoints + others then
      results[n] = 'too_many'
    elseif bytes > tonumber(max_bytes) then
      results[n] = 'full'
    else
      redis.call('HSET', journal, 'checkpoint:' .. name, value, 'bytes', bytes)
      results[n] = 'ok'
    end
  end
end
return results
