#!lua flags=allow-oom
-- Delete jobs that ended before a cutoff, with all their keys.
-- include: groups
-- keys: index stream_high stream_normal stream_low delayed counters events bell labels groups changes
-- args: job_prefix status older_than_ms limit dry_run by reason
-- returns: number of jobs deleted (with dry_run: that would be), 1 if more are left
--
-- `index` lists jobs of one terminal status; a job whose status differs is only removed from the index.
-- The call after which nothing is left to delete is recorded as a successful pass. It publishes no events: a pass may
-- delete more jobs than there are events.

local cutoff = now - older_than_ms
local ids = redis.call('ZRANGEBYSCORE', index, '-inf', '(' .. cutoff, 'LIMIT', 0, limit)
if dry_run == '1' then return {redis.call('ZCOUNT', index, '-inf', '(' .. cutoff), 0} end
local job_labels = labels_of(ids)
for n, id in ipairs(ids) do
  local job = job_prefix .. id
  local current = tolerate_damage(redis.pcall('HGET', job, 'status'))
  if type(current) ~= 'string' or current == status then delete_job(job, id, status, job_labels[n]) end
  redis.call('ZREM', index, id)
end
count('purged', #ids)
if #ids > 0 then note_changes('purge', '', ids, by, reason) end
if #ids < tonumber(limit) then redis.call('HSET', counters, 'last_purge_at', now) end
finish_call()
return {#ids, #ids == tonumber(limit) and 1 or 0}
