#!lua flags=allow-oom
-- Delete jobs that have ended, with all their keys.
-- include: groups
-- keys: completed failed cancelled stream_high stream_normal stream_low delayed counters events bell labels groups
-- args:
-- each job: id
-- returns: per job: purged | unknown, or the status of a job that has not ended

local indexes = {completed = completed, failed = failed, cancelled = cancelled}

-- The status of a job; of one whose keys have expired, that of the index that still lists it.
local function status_of(job, id)
  local status = read(job, 'status').status
  if status then return status end
  for ended, index in pairs(indexes) do
    if redis.call('ZSCORE', index, id) then return ended end
  end
end

local ids, results, purged = {}, {}, 0
for n = 1, items do
  local _, id = item(n)
  ids[n] = id
end
local job_labels = labels_of(ids)
for n = 1, items do
  local job, id = item(n)
  local status = status_of(job, id)
  if status and not indexes[status] then
    results[n] = status
  elseif not status then
    results[n] = 'unknown'
  else
    delete_job(job, id, status, job_labels[n])
    redis.call('ZREM', indexes[status], id)
    results[n], purged = 'purged', purged + 1
  end
end
count('purged', purged)
finish_call()
return results
