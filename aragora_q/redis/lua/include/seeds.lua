-- Finished calls that a new job takes over from its `source`; see `enqueue.lua`.

local seeds_by_job = {}  -- of this call: names and values, by the job's key and the source

-- Remember what `job` may take over from `source`; returns why that is nothing.
local function find_seeds(job, id, source)  -- rare
  local source_job = string.sub(job, 1, -#id - 1) .. source
  if not read(source_job, 'status').status or is_past_retention(source_job) then return 'unknown_source' end
  local journal = tolerate_damage(redis.pcall('HGETALL', source_job .. ':journal'))
  local own, inherited, begun = {}, {}, nil
  for n = 1, #journal, 2 do
    local name, value = journal[n], journal[n + 1]
    local kind = string.sub(name, 1, 16)
    if kind == 'checkpoint:call/' then
      own[#own + 1] = {'checkpoint:seed/' .. source .. '/' .. string.sub(name, 12), value}
    elseif name == 'checkpoint:begun' or (name == 'checkpoint:seed/begun' and not begun) then
      begun = value
    elseif kind == 'checkpoint:seed/' and name ~= 'checkpoint:seed/begun' then
      inherited[#inherited + 1] = {name, value}
    end
  end
  local seeds, bytes = {}, 0
  for _, list in ipairs({own, inherited}) do
    for _, seed in ipairs(list) do
      bytes = bytes + #seed[1] + #seed[2]
      if bytes <= MAX_SEED_BYTES then seeds[#seeds + 1] = seed end
    end
  end
  if #seeds == 0 or not begun then return 'no_calls' end
  seeds[#seeds + 1] = {'checkpoint:seed/begun', begun}
  seeds_by_job[job .. ' ' .. source] = seeds
end

local function write_seeds(job, source)  -- rare
  local seeds = seeds_by_job[job .. ' ' .. source]
  for _, seed in ipairs(seeds) do redis.call('HSET', job .. ':journal', seed[1], seed[2]) end
  redis.call('HSET', job .. ':journal', 'seeds', #seeds)
  note_more(job)
end
