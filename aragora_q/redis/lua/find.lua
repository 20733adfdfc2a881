#!lua flags=no-writes,allow-oom
-- List one page of the jobs that match a filter, newest first within one index.
-- include: groups filter
-- keys: stream_high stream_normal stream_low delayed held completed failed cancelled labels
-- args: wanted_labels statuses since_ms until_ms with_expired ordered source cursor scan_limit limit count_only
-- returns: the index that is read (`live`: read the lanes instead), the next page's cursor (empty: this was the
-- last), number of jobs, then per job: id, ms (of its enqueue if labels are wanted, otherwise of its end)
--
-- `include/filter.lua` describes the filter. With an empty `source`, the smallest of the indexes that hold all
-- matching jobs is chosen: that of a wanted label, of the one terminal status, or, if only live jobs are wanted, the
-- lanes. With `ordered`, an index that is not in the order of enqueue is chosen only if it has at most COLLECT_LIMIT
-- members.
--
-- A page ends after `scan_limit` members or `limit` jobs, but never between members with the same score.

local CHUNK = 500
local COLLECT_LIMIT = 5000
local TERMINAL = {completed = completed, failed = failed, cancelled = cancelled}

local any_status, only_status = statuses == '', string.match(statuses, '^%S+$')
local ended_index = only_status and TERMINAL[only_status]
local is_live_only = not any_status
for status in pairs(TERMINAL) do is_live_only = is_live_only and not is_wanted[status] end
local lowest = since_ms == '' and '-inf' or since_ms
local highest = until_ms == '' and '+inf' or '(' .. until_ms
-- No job's time is before its enqueue, but for a ms within a call.
local highest_enqueued = until_ms == '' and '+inf' or '(' .. text(until_ms + 1000)

local function count_live()
  if only_status == 'held' then return redis.call('ZCARD', held) end
  local running_only = only_status == 'processing'
  local total = running_only and 0 or redis.call('ZCARD', delayed)
  if is_wanted.held then total = total + redis.call('ZCARD', held) end
  for _, stream in ipairs({stream_high, stream_normal, stream_low}) do
    total = total + (running_only and (group_info(stream).pending or 0) or redis.call('XLEN', stream))
  end
  return total
end

local function choose_source()
  local chosen, smallest
  for label in string.gmatch(wanted_labels, '%S+') do
    local size = redis.call('ZCARD', members_key(label))
    if not chosen or size < smallest then chosen, smallest = label, size end
  end
  local other, size
  if ended_index then
    other, size = only_status, redis.call('ZCOUNT', ended_index, lowest, highest)
  elseif is_live_only then
    other, size = 'live', count_live()
  end
  if other and (not chosen or size < smallest and (ordered == '0' or size <= COLLECT_LIMIT)) then chosen = other end
  return chosen
end

if source == '' then source = choose_source() end
if source == 'live' then return {'live', '', 0} end

local by_end = TERMINAL[source]
local index = by_end or members_key(source)

-- The ids that have the wanted labels, in their order.
local function with_labels(ids)
  if not first_label or wanted_labels == source then return ids end
  local found = {}
  for n, job_labels in ipairs(redis.call('HMGET', labels, unpack(ids))) do
    if has_wanted_labels(job_labels) then found[#found + 1] = ids[n] end
  end
  return found
end

-- True if the job has a wanted status and its time is in the range: of its end, or else its start or its enqueue.
local function matches(id)
  local state = read(job_prefix .. id, 'status', 'started_at', 'created_at', 'entry')
  local status = state.status or with_expired == '1' and status_of(job_prefix .. id, id)
  if not status or not (any_status or is_wanted[status]) then return false end
  if TERMINAL[status] and with_expired == '0' and is_past_retention(job_prefix .. id) then return false end
  if not (from or to) then return true end
  local ended = TERMINAL[status] and redis.call('ZSCORE', TERMINAL[status], id)
  local ms = tonumber(ended or nil) or updated_ms(state)
  return ms ~= nil and is_in_range(ms)
end

-- The ids of jobs that ended as the only wanted status, in the range.
local function with_end(ids)
  local found = {}
  for n, ms in ipairs(redis.call('ZMSCORE', ended_index, unpack(ids))) do
    if ms and is_in_range(tonumber(ms)) then found[#found + 1] = ids[n] end
  end
  return found
end

local function matching(ids)
  ids = with_labels(ids)
  if ended_index and not by_end and #ids > 0 then ids = with_end(ids) end
  local found = {}
  for _, id in ipairs(ids) do
    if ended_index and (with_expired == '1' or not is_past_retention(job_prefix .. id))
      or not ended_index and matches(id) then
      found[#found + 1] = id
    end
  end
  return found
end

local reply, scanned, found = {source, '', 0}, 0, 0
local last_score

local function is_full() return scanned >= tonumber(scan_limit) or found >= tonumber(limit) end

-- Members from `offset` on; of a full page, only those that have the last score.
local function next_members(offset)
  local max = cursor ~= '' and '(' .. cursor or by_end and highest or highest_enqueued
  local rows = redis.call('ZRANGE', index, max, by_end and lowest or '-inf', 'BYSCORE', 'REV', 'LIMIT', offset,
    CHUNK, 'WITHSCORES')
  local ids, scores = {}, {}
  for n = 1, #rows, 2 do
    if is_full() and rows[n + 1] ~= last_score then return ids, scores, true end
    ids[#ids + 1], scores[rows[n]] = rows[n], rows[n + 1]
  end
  return ids, scores, false
end

while true do
  local ids, scores, has_more = next_members(scanned)
  if #ids > 0 then
    scanned, last_score = scanned + #ids, scores[ids[#ids]]
    local selected = matching(ids)
    found = found + #selected
    if count_only == '0' and #selected > 0 then
      local times = by_end and first_label and redis.call('ZMSCORE', members_key(first_label), unpack(selected))
      for n, id in ipairs(selected) do
        reply[#reply + 1] = id
        reply[#reply + 1] = times and times[n] or scores[id]
      end
    end
  end
  if has_more then reply[2] = last_score end
  if has_more or #ids == 0 then break end
end
reply[3] = found
return reply
