#!lua flags=allow-oom
-- Check a page of the messages that are listed as waiting or as sent: each exists, for this webhook.
-- include: groups
-- keys: labels
-- args: list webhook cursor limit repair
-- returns: cursor of the next page (0: this was the last), then the ids without data; wrong-type instead of a cursor if
-- the list is a key of another type
--
-- `list` is outbox or sent. Expired data of a message older than DELIVERY_MS is not a problem: the next delivery
-- removes the message from the list.

local key = queue_prefix .. list .. ':' .. webhook
local page = redis.pcall('ZSCAN', key, cursor, 'COUNT', limit)
if page.err then return {'wrong-type'} end
local reply = {page[1]}
for n = 1, #page[2], 2 do
  local id, at = page[2][n], tonumber(page[2][n + 1])
  if read(queue_prefix .. 'delivery:' .. id, 'webhook').webhook ~= webhook and at > now - DELIVERY_MS then
    reply[#reply + 1] = id
    if repair == '1' then redis.call('ZREM', key, id) end
  end
end
return reply
