#!lua
-- Show how far a running job is, to `status` and to those who follow the queue.
-- keys: events
-- args: lease_owner
-- each job: id fence progress
-- returns: one word per job: ok | lost

local words = {}
for n = 1, items do
  local job, id, fence, progress = item(n)
  words[n] = 'lost'
  if owns_lease(read(job, 'status', 'fence', 'lease_owner'), lease_owner, fence) then
    redis.call('HSET', job .. ':journal', 'progress', progress)
    publish_event('progress', {id}, 'data', progress)
    words[n] = 'ok'
  end
end
return words
