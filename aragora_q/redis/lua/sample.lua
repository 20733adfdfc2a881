#!lua flags=allow-oom
-- Write the samples of this minute and of this hour, unless they exist: any number of callers write one.
-- repeatable
-- keys: stream_high stream_normal stream_low delayed held counters durations workers samples_minute samples_hour
-- args: silent_ms day spent spent_before
-- returns: ms until the next one is due
--
-- `spent` are micro-dollars of the day `day` (days since 1970), `spent_before` those of the day before; `-`: unknown.
-- A sample has the fields `counts` (SAMPLED_COUNTERS, waiting, running, delayed, held, live workers, spent,
-- spent_before), `run` and `total` (the first bucket with jobs, and the number of jobs of each from there on).
-- Counters and buckets are lifetime totals.

local MINUTE_MS, HOUR_MS, DAY_MS = 60000, 3600000, 86400000

-- The totals of the buckets that `place` names in the fields of `durations`, as text.
local function bucket_counts(rows, place)
  local counts, first, last = {}, LAST_BUCKET, -1
  for n = 1, #rows, 2 do
    local bucket, jobs = tonumber((string.match(rows[n], place))), parse_int(rows[n + 1])
    if bucket and bucket <= LAST_BUCKET and jobs then
      counts[bucket] = (counts[bucket] or 0) + jobs
      first, last = math.min(first, bucket), math.max(last, bucket)
    end
  end
  local words = {}
  for bucket = first, last do words[#words + 1] = text(counts[bucket] or 0) end
  return #words > 0 and first .. ' ' .. table.concat(words, ' ') or ''
end

local sample  -- fields and values of both samples, once they are needed

local function read_sample()
  local counts, waiting, running = {}, 0, 0
  for name in string.gmatch(SAMPLED_COUNTERS, '%a+') do
    counts[#counts + 1] = text(parse_int(redis.call('HGET', counters, name)) or 0)
  end
  for _, stream in ipairs({stream_high, stream_normal, stream_low}) do
    local pending = group_info(stream).pending or 0
    waiting, running = waiting + redis.call('XLEN', stream) - pending, running + pending
  end
  for _, gauge in ipairs({waiting, running, redis.call('ZCARD', delayed), redis.call('ZCARD', held),
    redis.call('ZCOUNT', workers, text(now - silent_ms), '+inf')}) do
    counts[#counts + 1] = text(gauge)
  end
  local is_today = tonumber(day) == math.floor(now / DAY_MS)  -- else the day has ended since `spent` was read
  counts[#counts + 1] = is_today and spent or '-'
  counts[#counts + 1] = is_today and spent_before or '-'
  local rows = redis.call('HGETALL', durations)
  return {'counts', table.concat(counts, ' '), 'run', bucket_counts(rows, '^(%d+) '),
    'total', bucket_counts(rows, ' (%d+)$')}
end

local function newest_ms(stream)
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return newest and entry_ms(newest[1]) or 0
end

local function write_sample(stream, interval_ms, kept_ms)
  if newest_ms(stream) > now then  -- the clock was set back: a stream takes no id before its newest one
    local past = redis.call('XRANGE', stream, '-', now_text)
    redis.call('UNLINK', stream)
    for _, entry in ipairs(past) do redis.call('XADD', stream, entry[1], unpack(entry[2])) end
  end
  local at = now - now % interval_ms
  if newest_ms(stream) >= at then return end
  sample = sample or read_sample()
  redis.call('XADD', stream, 'MINID', '=', text(at - kept_ms), text(at) .. '-0', unpack(sample))
end

write_sample(samples_minute, MINUTE_MS, MINUTES_KEPT_MS)
write_sample(samples_hour, HOUR_MS, HOURS_KEPT_MS)
return MINUTE_MS - now % MINUTE_MS
