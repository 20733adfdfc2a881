#!lua flags=allow-oom
-- Check a page of the jobs that are listed at a label: each has this label.
-- include: groups
-- keys: labels
-- args: label cursor limit repair
-- returns: cursor of the next page (0: this was the last), then per problem: job id, code (see doctor/report.py);
-- wrong-type instead of a cursor if the list is a key of another type
--
-- A job without any labels keeps its place: they were deleted, and the list is all that is left of them.

local members = members_key(label)
local page = redis.pcall('ZSCAN', members, cursor, 'COUNT', limit)
if page.err then return {'wrong-type'} end
local ids, reply = {}, {page[1]}
for n = 1, #page[2], 2 do ids[#ids + 1] = page[2][n] end
local known_labels = labels_of(ids)
for n, id in ipairs(ids) do
  if not has_label(known_labels[n], label) then
    local is_lost = not known_labels[n] and redis.call('EXISTS', queue_prefix .. 'job:' .. id) == 1
    reply[#reply + 1] = id
    reply[#reply + 1] = is_lost and 'labels-lost' or 'stray-member'
    if repair == '1' and not is_lost then redis.call('ZREM', members, id) end
  end
end
return reply
