#!lua
-- Add what a finished debate took to the history of its queue.
-- keys: history
-- args: max_rows
-- each row: name numbers
-- returns: number of rows
--
-- A row is the time of its last change in ms, how many debates it is from, and sums, each of which has lost
-- 1/HISTORY_DEBATES at each debate since: numbers, separated by blanks. A row that another program wrote to is begun
-- again. Of too many rows, those that have not changed for longest are deleted.

local KEPT = 1 - 1 / HISTORY_DEBATES
local LEAST_SUM = 1e-6  -- a smaller one is 0: what happened once, thousands of debates ago

-- The numbers in a text; nil if it is not that many.
local function numbers_of(stored, count)
  local numbers = {}
  for word in string.gmatch(stored, '%S+') do
    local number = tonumber(word)
    if not number or not (number >= 0 and number < 1e18) then return nil end  -- NaN is neither
    numbers[#numbers + 1] = number
  end
  return #numbers == count and numbers or nil
end

if type(redis.pcall('HLEN', history)) == 'table' then redis.call('UNLINK', history) end  -- a key of another type
for n = 1, items do
  local name, values = item(n)
  local row = {now, 0}
  for word in string.gmatch(values, '%S+') do row[#row + 1] = tonumber(word) end
  local before = numbers_of(redis.call('HGET', history, name) or '', #row)
  if before then
    row[2] = before[2]
    for i = 3, #row do
      row[i] = row[i] + before[i] * KEPT
      if row[i] < LEAST_SUM then row[i] = 0 end
    end
  end
  row[2] = row[2] + 1
  for i = 1, #row do row[i] = string.format(i == 1 and '%d' or '%.10g', row[i]) end
  redis.call('HSET', history, name, table.concat(row, ' '))
end

local excess = redis.call('HLEN', history) - max_rows
if excess > 0 then
  local rows, fields = {}, redis.call('HGETALL', history)
  for f = 1, #fields, 2 do
    rows[#rows + 1] = {tonumber(string.match(fields[f + 1], '^%d+')) or 0, fields[f]}
  end
  table.sort(rows, function(a, b) return a[1] < b[1] end)
  for n = 1, math.min(#rows, excess + math.floor(max_rows / 10)) do redis.call('HDEL', history, rows[n][2]) end
end
redis.call('PEXPIRE', history, text(HISTORY_MS))
return redis.call('HLEN', history)
