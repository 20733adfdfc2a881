#!lua flags=no-writes,allow-oom
-- List one page of the live jobs that match a filter: of the held and the delayed index, and of the lanes, newest first
-- each.
-- include: groups filter
-- keys: stream_high stream_normal stream_low delayed held labels
-- args: wanted_labels statuses since_ms until_ms ordered cursor scan_limit max_bytes limit count_only
-- returns: the next page's cursor (empty: this was the last), number of jobs, then per job: id, ms (of its enqueue
-- if labels are wanted, otherwise of its latest start, or else of its enqueue)
--
-- `include/filter.lua` describes the filter. The parts of the cursor, one per place, are separated by spaces. A job
-- with an invalid status matches any, so that reading it raises an error. Payloads are read, few at a time, but not
-- returned. A page ends after `limit` jobs, `scan_limit` jobs or entries read, or `max_bytes` of payloads. With
-- `ordered`, at most `limit` jobs are returned: the newest that the page found. It takes that many from each place
-- before it ends; with labels, all.

local CHUNK = 100
local MAX_ROWS = 16
local MAX_ROW_BYTES = 16384
local ORDERED_INDEX = 1000

local waiting = is_wanted.pending or is_wanted.retrying

-- The places to read: `max` and `min` bound the ids of a lane's entries. Entries that only waiting jobs can have
-- are read back to `since_ms`: what was added before and waits did not change since.
local places = {}
if is_wanted.held then places[1] = {index = held, max = '+inf', min = '-inf'} end
if waiting then places[#places + 1] = {index = delayed, max = '+inf', min = '-inf'} end
for _, stream in ipairs((waiting or is_wanted.processing) and {stream_high, stream_normal, stream_low} or {}) do
  if not is_wanted.processing then
    places[#places + 1] = {stream = stream, max = '+', min = '-', oldest_ms = from}
  else
    local last_delivered = group_info(stream)['last-delivered-id'] or '0-0'
    if waiting then
      places[#places + 1] = {stream = stream, max = '+', min = '(' .. last_delivered, oldest_ms = from}
    end
    places[#places + 1] = {stream = stream, max = last_delivered, min = '-'}
  end
end
-- The first page sets the bounds: a job that starts between two pages does not move to another place.
local n_place = 0
for max, min, matched in string.gmatch(cursor, '(%S+)/(%S+)/(%d+)') do
  n_place = n_place + 1
  if places[n_place] then
    places[n_place].max, places[n_place].min, places[n_place].matched = max, min, tonumber(matched)
  end
end

local found, scanned, bytes_left = {}, 0, tonumber(max_bytes)

-- Add the jobs that match to the jobs found; returns how many.
local function add_matching(ids)
  local before, needs_time = #found, from or to or ordered == '1'
  for _, id in ipairs(ids) do
    local job = job_prefix .. id
    local has_labels = not first_label or has_wanted_labels(redis.call('HGET', labels, id))
    local status = has_labels and redis.pcall('HGET', job, 'status')
    if type(status) == 'string' and (is_wanted[status] or not KNOWN[status]) then
      local state = needs_time and read(job, 'started_at', 'created_at', 'entry') or {}
      local updated = updated_ms(state) or now
      if is_in_range(updated) then
        local labeled = first_label and redis.call('ZSCORE', members_key(first_label), id)
        found[#found + 1] = {id, tonumber(labeled or nil) or updated, #found}
      end
    end
  end
  return #found - before
end

local function is_over() return scanned >= tonumber(scan_limit) or bytes_left <= 0 end

-- Up to CHUNK ids of a lane, from the place's position on; moves it. Reads more entries at once if they are small:
-- one by one, Redis would find each from the end of its block.
local function next_in_lane(place)
  local ids = {}
  local first = redis.call('XRANGE', place.stream, '-', '+', 'COUNT', 1)[1]
  while #ids < CHUNK and not is_over() do
    if is_before_lane(place.max, first and first[1]) then
      place.max = 'end'
      break
    end
    local count = place.rows or 1
    local rows, bytes = redis.call('XREVRANGE', place.stream, place.max, place.min, 'COUNT', count), 0
    for _, row in ipairs(rows) do
      if place.oldest_ms and entry_ms(row[1]) < place.oldest_ms then
        place.max = 'end'
        return ids
      end
      local id, payload = job_of(row[2] or {})
      ids[#ids + 1] = id
      place.max = '(' .. row[1]
      scanned, bytes = scanned + 1, bytes + #(payload or '')
    end
    if #rows < count then
      place.max = 'end'
      break
    end
    bytes_left = bytes_left - bytes
    place.rows = bytes > MAX_ROW_BYTES and 1 or math.min(count * 2, MAX_ROWS)
  end
  return ids
end

-- At least CHUNK ids of an index, with all that have the last time; moves the place's position.
local function next_in_index(place)
  local ids, last = {}, nil
  while true do
    local rows = redis.call('ZRANGE', place.index, place.max, place.min, 'BYSCORE', 'REV', 'LIMIT', #ids, CHUNK, 'WITHSCORES')
    for n = 1, #rows, 2 do
      if #ids >= CHUNK and rows[n + 1] ~= last then
        place.max = '(' .. last
        return ids
      end
      ids[#ids + 1], last = rows[n], rows[n + 1]
      scanned = scanned + 1
    end
    if #rows == 0 then
      place.max = 'end'
      return ids
    end
  end
end

for _, place in ipairs(places) do
  while place.max ~= 'end' and not is_over() do
    local ids = place.index and next_in_index(place) or next_in_lane(place)
    place.matched = (place.matched or 0) + add_matching(ids)
    -- By enqueue, or among jobs with another due time, the newest may be anywhere.
    local enough = first_label and math.huge or tonumber(limit)
    if place.index then enough = math.max(enough, ORDERED_INDEX) end
    if ordered == '1' and place.matched >= enough then
      place.max = 'end'
    elseif ordered == '0' and #found >= tonumber(limit) then
      break
    end
  end
end

local positions, is_last = {}, true
for n, place in ipairs(places) do
  positions[n] = place.max .. '/' .. place.min .. '/' .. text(place.matched or 0)
  is_last = is_last and place.max == 'end'
end
local reply, number = {is_last and '' or table.concat(positions, ' '), #found}, #found
if ordered == '1' then
  table.sort(found, function(a, b) return a[2] > b[2] or a[2] == b[2] and a[3] < b[3] end)
  number = math.min(number, tonumber(limit))
end
if count_only == '0' then
  for n = 1, number do
    reply[#reply + 1] = found[n][1]
    reply[#reply + 1] = text(found[n][2])
  end
end
return reply
