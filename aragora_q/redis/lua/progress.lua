#!lua
-- Show how far a running job is, to `status` and to those who follow the queue.
-- keys: events
-- args: holder
-- each job: id fence progress
-- returns: one word per job: ok | lost

local words = {}
for n = 1, items do
  local job, id, fence, progress = item(n)
  words[n] = 'lost'
  if is_held(read(job, 'status', 'fence', 'holder'), holder, fence) then
    redis.call('HSET', job .. ':journal', 'progress', progress)
    announce('progress', {id}, 'data', progress)
    words[n] = 'ok'
  end
end
return words
