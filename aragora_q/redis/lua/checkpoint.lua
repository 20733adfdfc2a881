#!lua
-- Keep a piece of a running job's work for its later attempts.
-- keys:
-- args: lease_owner max_bytes
-- each job: id fence name value
-- returns: one word per job: ok | lost | full

local words = {}
for n = 1, items do
  local job, _, fence, name, value = item(n)
  local journal = job .. ':journal'
  words[n] = 'lost'
  if owns_lease(read(job, 'status', 'fence', 'lease_owner'), lease_owner, fence) then
    local kept = tonumber(redis.call('HGET', journal, 'bytes') or 0)
    local replaced = redis.call('HSTRLEN', journal, 'checkpoint:' .. name)
    local bytes = kept + #value - replaced + (replaced == 0 and #name or 0)
    words[n] = 'full'
    if bytes <= tonumber(max_bytes) then
      redis.call('HSET', journal, 'checkpoint:' .. name, value, 'bytes', bytes)
      words[n] = 'ok'
    end
  end
end
return words
