#!lua flags=no-writes,allow-oom
-- List the newest messages of webhooks, those that wait and those that are sent.
-- include: groups
-- keys: webhooks labels
-- args: limit
-- each webhook: name
-- returns: per message, newest first: id, webhook, due time (-1: it does not wait)

local rows = {}
for n = 1, items do
  local name = item(n)
  for _, kind in ipairs({'outbox:', 'sent:'}) do
    local ids = redis.pcall('ZRANGE', queue_prefix .. kind .. name, '0', '-1', 'WITHSCORES')
    for i = 1, ids.err and 0 or #ids, 2 do
      local ms, seq = string.match(ids[i], '^(%d+)%-(%d+)$')
      rows[#rows + 1] = {tonumber(ms) or 0, tonumber(seq) or 0, ids[i], name, kind == 'outbox:' and tonumber(ids[i + 1]) or -1}
    end
  end
end
table.sort(rows, function(a, b)
  if a[1] ~= b[1] then return a[1] > b[1] end
  return a[2] > b[2]
end)
local reply = {}
for n = 1, math.min(tonumber(limit), #rows) do
  local _, _, id, name, due = unpack(rows[n])
  reply[n] = {id, name, due}
end
return reply
