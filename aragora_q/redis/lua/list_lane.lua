#!lua flags=no-writes,allow-oom
-- List one page of the job ids in a lane: of all entries, newest first, or of those delivered to a worker.
-- keys: stream
-- args: delivered_only cursor limit max_bytes
-- returns: the next page's cursor (empty: this was the last page), then job ids
--
-- `cursor` is an entry id to begin with, or - (delivered_only), or +. Payloads are read, one at a time, but
-- not returned. A page ends after `max_bytes` of them, so that its cost does not depend on their size.

local ids, bytes_left, last_read = {}, tonumber(max_bytes), nil

local function add(entry_id, fields)
  local id, payload = job_of(fields or {})
  ids[#ids + 1] = id
  bytes_left = bytes_left - #(payload or '')
  last_read = entry_id
end

local is_last = false
if delivered_only == '1' then
  local pending = redis.pcall('XPENDING', stream, GROUP, cursor, '+', limit)
  if pending.err then return {''} end
  for _, row in ipairs(pending) do
    if bytes_left > 0 then add(row[1], fields_of(stream, row[1])) end
  end
  is_last = #pending < tonumber(limit) and (#pending == 0 or last_read == pending[#pending][1])
else
  for _ = 1, limit do
    local row = redis.call('XREVRANGE', stream, last_read and '(' .. last_read or cursor, '-', 'COUNT', 1)[1]
    is_last = not row
    if row then add(row[1], row[2]) end
    if is_last or bytes_left <= 0 then break end
  end
end
return {is_last and '' or '(' .. last_read, unpack(ids)}
