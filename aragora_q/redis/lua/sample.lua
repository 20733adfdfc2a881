#!lua flags=allow-oom
-- Write the samples of this minute and of this hour, unless they exist: any number of callers write one.
-- repeatable
-- keys: stream_high stream_normal stream_low delayed held counters durations workers samples_minute samples_hour
-- args: silent_ms day spent spent_before
-- returns: ms until the next one is due
--
-- `spent` are micro-dollars of the day `day` (days since 1970), `spent_before` those of the day before; `-`: unknown.
-- A sample has the fields `counts` (SAMPLED_COUNTERS, waiting, running, delayed, held, live workers, spent,
-- spent_before; counters are lifetime totals), and `run` and `total`, which stay short: the first bucket with jobs that
-- were completed since the sample before, and the number of jobs in each bucket from there on.

local MINUTE_MS, HOUR_MS, DAY_MS = 60000, 3600000, 86400000

local function read_counts()
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
  return table.concat(counts, ' ')
end

-- The lifetime totals of the buckets of `run`, and behind them those of `total`.
local function read_buckets()
  local sums = {}
  for n = 1, 2 * (LAST_BUCKET + 1) do sums[n] = 0 end
  local rows = redis.call('HGETALL', durations)
  for n = 1, #rows, 2 do
    local run, total = string.match(rows[n], '^(%d+) (%d+)$')
    local jobs = parse_int(rows[n + 1])
    if jobs and tonumber(run or 99) <= LAST_BUCKET and tonumber(total) <= LAST_BUCKET then
      for _, place in ipairs({run + 1, total + LAST_BUCKET + 2}) do sums[place] = sums[place] + jobs end
    end
  end
  return sums
end

-- `<first> <count> <count> …` of the changes from place `from` on.
local function changes_text(changes, from)
  local words, last = {}, 0
  for bucket = 0, LAST_BUCKET do
    local jobs = changes[from + bucket]
    if jobs > 0 and #words == 0 then words[1] = text(bucket) end
    if #words > 0 then words[#words + 1] = text(jobs) end
    if jobs > 0 then last = #words end
  end
  return table.concat(words, ' ', 1, last)
end

-- What was completed since the last sample of a kind, as texts for `run` and `total`.
local function durations_since(kind, sums)
  local before, changes = {}, {}
  for number in string.gmatch(redis.call('HGET', durations, kind) or '', '%d+') do before[#before + 1] = number end
  for n, sum in ipairs(sums) do
    changes[n] = sum - (parse_int(before[n]) or 0)
    if changes[n] < 0 then changes = sums break end  -- the buckets began again
  end
  redis.call('HSET', durations, kind, table.concat(sums, ' '))
  return changes_text(changes, 1), changes_text(changes, LAST_BUCKET + 2)
end

local function newest_ms(stream)
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  return newest and entry_ms(newest[1]) or 0
end

local counts, sums  -- for both samples, once they are needed

local function write_sample(kind, stream, interval_ms, kept_ms)
  if newest_ms(stream) > now then  -- the clock was set back: a stream takes no id before its newest one
    local past = redis.call('XRANGE', stream, '-', now_text)
    redis.call('UNLINK', stream)
    for _, entry in ipairs(past) do redis.call('XADD', stream, entry[1], unpack(entry[2])) end
  end
  local at = now - now % interval_ms
  if newest_ms(stream) >= at then return end
  counts, sums = counts or read_counts(), sums or read_buckets()
  local run, total = durations_since(kind, sums)
  redis.call('XADD', stream, 'MINID', '=', text(at - kept_ms), text(at) .. '-0', 'counts', counts, 'run', run,
    'total', total)
end

write_sample('minute', samples_minute, MINUTE_MS, MINUTES_KEPT_MS)
write_sample('hour', samples_hour, HOUR_MS, HOURS_KEPT_MS)
return MINUTE_MS - now % MINUTE_MS
