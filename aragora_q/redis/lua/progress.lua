#!lua
-- Store the progress of running jobs and publish it as an event.
-- keys: events
-- args: lease_owner
-- each job: id fence progress
-- returns: per job: ok | lost

local results = {}
for n = 1, items do
  local job, id, fence, progress = item(n)
  results[n] = 'lost'
  if owns_lease(read(job, 'status', 'fence', 'lease_owner'), lease_owner, fence) then
    if redis.call('HSET', job .. ':journal', 'progress', progress) == 1 then note_more(job) end
    publish_event('progress', {id}, 'data', progress)
    results[n] = 'ok'
  end
end
return results
