#!lua flags=allow-oom
-- Check a page of the jobs that are listed at a label: each has this label.
-- include: groups
-- keys: labels
-- args: label cursor limit repair
-- returns: cursor of the next page (0: this was the last), then the ids of the jobs that do not have the label;
-- wrong-type instead of a cursor if the list is a key of another type

local members = members_key(label)
local page = redis.pcall('ZSCAN', members, cursor, 'COUNT', limit)
if page.err then return {'wrong-type'} end
local ids, reply = {}, {page[1]}
for n = 1, #page[2], 2 do ids[#ids + 1] = page[2][n] end
for n, job_labels in ipairs(labels_of(ids)) do
  if not has_label(job_labels, label) then
    reply[#reply + 1] = ids[n]
    if repair == '1' then redis.call('ZREM', members, ids[n]) end
  end
end
return reply
