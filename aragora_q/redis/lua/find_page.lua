#!lua flags=no-writes,allow-oom
-- List one page of the jobs that match a filter, newest first, in one call whatever the size of the queue.
-- include: groups filter
-- keys: stream_high stream_normal stream_low delayed held completed failed cancelled labels
-- args: wanted_labels statuses since_ms until_ms cursor limit scan_limit max_bytes
-- returns: the next page's cursor (empty: this was the last), then the ids of the jobs
--
-- `include/filter.lua` describes the filter. The members of several places are merged by their times: entries of lanes
-- by the time they were added, delayed jobs by their due time, held ones by the time of their hold, ended ones by their
-- end. Running jobs come first. If the smallest index of a wanted label has fewer members than these places, it is read
-- instead: by enqueue.
-- A page ends after `limit` jobs, `scan_limit` members, or `max_bytes` of payloads that were read: it may be empty, and
-- yet not the last. The cursor is the time of the first page in ms, then the place, the time and the id (of an
-- entry: its sequence number) of the last member that was read, separated by colons. Later pages leave out what came
-- after the first one.

local CHUNK, MAX_ROWS, MAX_ROW_BYTES = 50, 16, 16384
local MAX_ENTRY_MS = 9e18
local RUNNING, DELAYED, LABEL = 3, 7, 12  -- numbers of places: of running jobs, 1 to 3
local ENDED = {completed = completed, failed = failed, cancelled = cancelled}

local first_page_ms, last_number, last_text, last_id = string.match(cursor, '^(%d+):(%d+):([^:]+):(.*)$')
local last_ms = tonumber(last_text)
first_page_ms, last_number = tonumber(first_page_ms) or now, tonumber(last_number)

local function wants(status) return statuses == '' or is_wanted[status] or false end

local wants_waiting = wants('pending') or wants('retrying')

-- The places to read, by number; a cursor has such a number.
local places = {}
for n, stream in ipairs({stream_high, stream_normal, stream_low}) do
  local oldest = '-'
  if wants('processing') then
    local group = group_info(stream)
    local last_delivered = group['last-delivered-id'] or '0-0'
    places[n] = {stream = stream, newest = last_delivered, oldest = '-', size = group.pending or 0}
    oldest = '(' .. last_delivered
  end
  if wants_waiting then
    -- What was added before `since_ms` and waits did not change since.
    places[RUNNING + n] = {stream = stream, newest = '+', oldest = oldest, since = from, size = redis.call('XLEN', stream)}
  end
end
if wants_waiting then places[DELAYED] = {index = delayed, lowest = '-inf', size = redis.call('ZCARD', delayed)} end
if wants('held') then places[8] = {index = held, lowest = '-inf', size = redis.call('ZCARD', held)} end
for n, status in ipairs({'completed', 'failed', 'cancelled'}) do
  if wants(status) then
    local lowest, highest = from and since_ms or '-inf', to and text(to - 1) or '+inf'
    places[8 + n] = {index = ENDED[status], lowest = lowest, highest_ms = to and to - 1, is_ended = true,
      size = redis.call('ZCOUNT', ENDED[status], lowest, highest)}
  end
end

-- The wanted label whose index is to be read; nil: the places.
local function choose_label()
  if not first_label or last_number and last_number ~= LABEL then return nil end
  local smallest, size
  for label in string.gmatch(wanted_labels, '%S+') do
    local members = redis.call('ZCARD', members_key(label))
    if not smallest or members < size then smallest, size = label, members end
  end
  for _, place in pairs(places) do size = size - place.size end
  return (last_number or size <= 0) and smallest or nil
end

local label = choose_label()
if label then
  -- No job's time is before its enqueue, but for a ms within a call.
  places = {[LABEL] = {index = members_key(label), lowest = '-inf', highest_ms = to and to + 1000}}
end

-- Set where the reading of a place begins: after the last member of the page before.
local function set_beginning(place, number)
  local max_ms, is_after = place.highest_ms or math.huge, last_number ~= nil
  if is_after and number > RUNNING and number ~= DELAYED then max_ms = math.min(max_ms, first_page_ms) end
  if is_after and (number <= RUNNING) == (last_number <= RUNNING) then
    max_ms = math.min(max_ms, number < last_number and last_ms - 1 or last_ms)
  end
  place.number, place.rows, place.next, place.offset = number, {}, 1, 0
  place.is_over = is_after and number <= RUNNING and last_number > RUNNING or place.stream and max_ms < 0
  if place.index then
    place.max = max_ms == math.huge and '+inf' or string.format('%.17g', max_ms)
  elseif number == last_number then
    place.max = '(' .. last_text .. '-' .. last_id
  elseif max_ms < math.min(place.newest == '+' and math.huge or entry_ms(place.newest), MAX_ENTRY_MS) then
    place.max = string.format('%.0f', max_ms)
  else
    place.max = place.newest
  end
end

for number, place in pairs(places) do set_beginning(place, number) end

-- True if the name `a` is before `b`, as Redis orders them: Lua compares by the server's locale.
local function is_before(a, b)
  for n = 1, math.min(#a, #b) do
    local x, y = string.byte(a, n), string.byte(b, n)
    if x ~= y then return x < y end
  end
  return #a < #b
end

local function read_index(place)
  local rows = redis.call('ZRANGE', place.index, place.max, place.lowest, 'BYSCORE', 'REV', 'LIMIT', place.offset, CHUNK,
    'WITHSCORES')
  for n = 1, #rows, 2 do
    local id, ms = rows[n], tonumber(rows[n + 1])
    if not (place.number == last_number and ms == last_ms and not is_before(id, last_id)) then
      place.rows[#place.rows + 1] = {id = id, ms = ms, ms_text = rows[n + 1], tail = id}
    end
  end
  place.offset = place.offset + #rows / 2
  place.is_over = #rows < 2 * CHUNK
end

local bytes_left = tonumber(max_bytes)

-- Reads more entries at once if they are small: one by one, Redis would find each from the end of its block.
local function read_lane(place)
  if not place.first then
    local first = redis.call('XRANGE', place.stream, '-', '+', 'COUNT', 1)[1]
    place.first = first and first[1]
  end
  if is_before_lane(place.max, place.first) then
    place.is_over = true
    return
  end
  local count, bytes = place.count or 1, 0
  local rows = redis.call('XREVRANGE', place.stream, place.max, place.oldest, 'COUNT', count)
  for _, row in ipairs(rows) do
    local ms_text, seq = string.match(row[1], '^(%d+)-(%d+)$')
    local id, payload = job_of(row[2] or {})
    bytes = bytes + #(payload or '')
    if place.since and tonumber(ms_text) < place.since then
      place.is_over = true
      return
    end
    place.rows[#place.rows + 1] = {id = id, ms = tonumber(ms_text), ms_text = ms_text, tail = seq, entry = row[1]}
    place.max = '(' .. row[1]
  end
  bytes_left = bytes_left - bytes
  place.count = bytes > MAX_ROW_BYTES and 1 or math.min(count * 2, MAX_ROWS)
  place.is_over = #rows < count
end

-- The next member of a place; nil if there is none.
local function next_row(place)
  while place.next > #place.rows and not place.is_over do
    place.rows, place.next = {}, 1
    if place.index then read_index(place) else read_lane(place) end
  end
  return place.rows[place.next]
end

-- The place that has the next member of all; nil if all are read.
local function next_place()
  local newest
  for number = 1, LABEL do
    if number == RUNNING + 1 and newest then break end
    local place = places[number]
    local row = place and next_row(place)
    if row and not (newest and newest.rows[newest.next].ms >= row.ms) then newest = place end
  end
  return newest
end

local function matches(place, row)
  local id = row.id
  if not id then return false end
  if first_label and wanted_labels ~= label and not has_wanted_labels(redis.call('HGET', labels, id)) then return false end
  local job = job_prefix .. id
  if place.is_ended then return not is_past_retention(job) end
  local state = read(job, 'status', 'started_at', 'created_at', 'entry')
  local status = state.status
  if not status or KNOWN[status] and not wants(status) then return false end
  local ended = ENDED[status]
  if ended and (not label or is_past_retention(job)) then return false end
  local is_copy = row.entry and state.entry ~= row.entry and string.find(state.entry or '', '^%d+%-%d+$')
  if is_copy then return false end
  if not (from or to) then return true end
  return is_in_range(tonumber(ended and redis.call('ZSCORE', ended, id) or nil) or updated_ms(state) or now)
end

local reply, is_found, scanned, last = {''}, {}, 0, nil
while true do
  local place = next_place()
  if not place then break end
  if #reply > tonumber(limit) or scanned >= tonumber(scan_limit) or last and bytes_left <= 0 then
    reply[1] = text(first_page_ms) .. ':' .. last
    break
  end
  local row = place.rows[place.next]
  place.next, scanned = place.next + 1, scanned + 1
  last = place.number .. ':' .. row.ms_text .. ':' .. row.tail
  if not is_found[row.id or ''] and matches(place, row) then
    reply[#reply + 1] = row.id
    is_found[row.id] = true
  end
end
return reply
