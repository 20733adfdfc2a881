#!lua flags=allow-oom
-- Delete jobs that have ended, with all their keys.
-- include: groups
-- keys: completed failed cancelled stream_high stream_normal stream_low delayed counters events bell labels groups changes
-- args: by reason
-- each job: id
-- returns: per job: purged | unknown, or the status of a job that has not ended

local indexes = {completed = completed, failed = failed, cancelled = cancelled}

local results, purged, job_labels = {}, {}, labels_of_items()
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
    results[n], purged[#purged + 1] = 'purged', id
  end
end
count('purged', #purged)
publish_event('purged', purged, 'by', by, 'reason', cut(reason))
if #purged > 0 then note_changes('purge', '', purged, by, reason) end
finish_call()
return results
