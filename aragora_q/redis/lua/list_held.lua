#!lua flags=no-writes,allow-oom
-- List one page of the held jobs that may be freed automatically, in the order in which they were held.
-- include:
-- keys: held
-- args: job_prefix causes after limit
-- returns: where the next page begins (empty: this was the last), then per job: id, cause, by, millionths of a US
-- dollar that it needs (or empty), hold_until (or empty)
--
-- These are jobs held for one of `causes`, which are separated by spaces, and those whose hold is over by its time.
-- `after` is the last job read, its time before its id. A page has at most `limit` jobs, of as many that were read.

local is_wanted = {}
for cause in string.gmatch(causes, '%S+') do is_wanted[cause] = true end
local after_ms, after_id = string.match(after, '^(%S+) (.*)$')

-- The next members, with their times: those of the time `after_ms` come first, in the order of their ids.
local function next_rows(offset)
  return redis.call('ZRANGE', held, after_ms or '-inf', '+inf', 'BYSCORE', 'LIMIT', offset, limit, 'WITHSCORES')
end

local reply, n_read, offset = {''}, 0, 0
local rows = next_rows(offset)
while #rows > 0 and n_read < tonumber(limit) do
  for n = 1, #rows, 2 do
    local id, held_at = rows[n], rows[n + 1]
    if not (held_at == after_ms and id <= after_id) and n_read < tonumber(limit) then
      n_read = n_read + 1
      reply[1] = held_at .. ' ' .. id
      local state = read(job_prefix .. id, 'status', 'hold_cause', 'hold_by', 'hold_usd', 'hold_until')
      local cause, until_ms = state.hold_cause or 'person', parse_int(state.hold_until)
      local is_over = until_ms and until_ms <= now and cause ~= 'person'
      if state.status == 'held' and (is_wanted[cause] or is_over) then
        reply[#reply + 1] = {id, cause, state.hold_by or '', parse_int(state.hold_usd) and state.hold_usd or '',
          until_ms and state.hold_until or ''}
      end
    end
  end
  offset = offset + limit
  if n_read < tonumber(limit) then rows = next_rows(offset) end
end
if n_read < tonumber(limit) then reply[1] = '' end
return reply
