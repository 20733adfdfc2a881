-- Shared by the scripts that find jobs by a filter: `wanted_labels` and `statuses` are separated by spaces, and empty
-- if any will do; so are `since_ms` and `until_ms`.

local job_prefix = queue_prefix .. 'job:'
local first_label = string.match(wanted_labels, '%S+')
local from, to = tonumber(since_ms), tonumber(until_ms)  -- nil: without bound

local is_wanted = {}  -- by status
for status in string.gmatch(statuses, '%S+') do is_wanted[status] = true end

-- True if these labels of a job have all that are wanted.
local function has_wanted_labels(job_labels)
  for label in string.gmatch(wanted_labels, '%S+') do
    if not has_label(job_labels, label) then return false end
  end
  return true
end

local function is_in_range(ms)
  return not (from and ms < from or to and ms >= to)
end

-- The latest start of a job that has not ended, or else its enqueue; nil if its hash does not say.
local function updated_ms(state)
  return parse_int(state.started_at) or parse_int(state.created_at) or state.entry and entry_ms(state.entry)
end

-- The statuses that jobs have; another program may have written other ones.
local KNOWN = {pending = true, processing = true, retrying = true, held = true, completed = true, failed = true,
  cancelled = true}

-- True if nothing of a lane is up to `max`; `first` is the id of its first entry (nil: it is empty). Redis would walk
-- the whole lane to find no entry before the first.
local function is_before_lane(max, first)
  local id = string.match(max, '^%(?(%d+%-%d+)$')
  if not first or not id then return not first end
  return max == '(' .. first or not is_up_to(first, id)
end
