-- Writes one tenant's touched tasks, then drops what retention no longer keeps. Key names: keys.rs, records:
-- record.rs. What is to be done is gathered over all tasks first, then done with few commands of many members.
--
-- KEYS[1]  the tenant's meta hash; every other key has the same hash tag
-- ARGV     1 prefix  2 generation  3 epoch  4 flush  5 flush this writer last wrote here, '' if none
--          6 journal seq  7 now  8 retain_tasks, '' to keep the stored  9 retain_ms  10 most drops
--          11 how many forgotten tasks, then their ids
--          how many large results, then id and result of each
--          then groups of tasks: state, agent, root ('' for tasks that are their own), how many, then of each
--          member, when it ended (0 while live), record
-- Returns  {word, applied, dropped, due}; due: when the oldest terminal task is to go, 0 if there is none
--          'ok'; 'empty': ok, and the tenant has no task left; 'fenced': a newer owner or flush was here;
--          'lost': not what this writer wrote last; 'foreign': another generation. The last three have
--          changed nothing.
local prefix, generation = ARGV[1], ARGV[2]
local epoch, flush = tonumber(ARGV[3]), tonumber(ARGV[4])
local known = ARGV[5]
local now, most_drops = tonumber(ARGV[7]), tonumber(ARGV[10])
local retain_tasks, retain_ms = ARGV[8], ARGV[9]
local call, match, sub = redis.call, string.match, string.sub

local meta = call('HMGET', KEYS[1], 'generation', 'epoch', 'flush', 'retain_tasks', 'retain_ms', 'trees')
if meta[1] then
  local e, f = tonumber(meta[2]), tonumber(meta[3])
  if e > epoch then return {'fenced', 0, 0, 0} end
  if meta[1] ~= generation then return {'foreign', 0, 0, 0} end
  if e == epoch and f > flush then return {'fenced', 0, 0, 0} end
  if known ~= '' and not (e == epoch and (f == flush or f == tonumber(known))) then
    return {'lost', 0, 0, 0}
  end
elseif known ~= '' then
  return {'lost', 0, 0, 0}
end
if retain_tasks == '' then
  if not meta[4] then return {'empty', 0, 0, 0} end
  retain_tasks, retain_ms = meta[4], meta[5]
end
retain_tasks, retain_ms = tonumber(retain_tasks), tonumber(retain_ms)

local HEADER = '^(%d+) (%l+) (%S+) (%S+) (%x+) (%d+) (%S+)\n'
local RECORDS, RESULTS = prefix .. 't', prefix .. 'x'
local SHOWN, DONE = prefix .. 'shown', prefix .. 'done'
-- Whether the tenant ever had a tree of two: without one no task needs a look at a tree's set.
local trees = meta[6]

-- One command with all of `args`, as many as fit on Lua's stack at once.
local STEP = 2000
local function many(command, key, args)
  local n = #args
  for i = 1, n, STEP do
    call(command, key, unpack(args, i, math.min(i + STEP - 1, n)))
  end
end
local function values(ids)
  local n = #ids
  if n == 0 then return {} end
  if n <= STEP then return call('HMGET', RECORDS, unpack(ids)) end
  local all = {}
  for i = 1, n, STEP do
    for _, value in ipairs(call('HMGET', RECORDS, unpack(ids, i, math.min(i + STEP - 1, n)))) do
      all[#all + 1] = value
    end
  end
  return all
end

-- By key: members to take out, members to put in (each behind its score), fields to delete.
local out, into, gone = {}, {}, {}
local function of(lists, key)
  local list = lists[key]
  if not list then
    list = {}
    lists[key] = list
  end
  return list
end
local function push(lists, key, value)
  local list = of(lists, key)
  list[#list + 1] = value
end

-- Out of every set that a stored task is in; its record stays. Takes the header as it is matched.
local function leave(id, _, state, agent, root, created, ended, result)
  local member = created .. id
  push(out, prefix .. 's:' .. state, member)
  if state ~= 'cancelled' then
    push(out, SHOWN, member)
    push(out, prefix .. 'a:' .. agent, member)
    if trees then push(out, prefix .. 'r:' .. (root == '-' and id or root), member) end
  end
  if ended ~= '0' then push(out, DONE, id) end
  if result == 'x' then push(gone, RESULTS, id) end
end

local function settle()
  for key, members in pairs(out) do many('ZREM', key, members) end
  for key, fields in pairs(gone) do many('HDEL', key, fields) end
  out, gone = {}, {}
  for key, members in pairs(into) do many('ZADD', key, members) end
  into = {}
end

-- Drops tasks with all that is kept of them.
local function drop(ids)
  local stored = values(ids)
  for i, id in ipairs(ids) do
    if stored[i] then
      leave(id, match(stored[i], HEADER))
      push(gone, RECORDS, id)
    else
      push(out, DONE, id)
    end
  end
  settle()
end

local at = 12
local forgotten = tonumber(ARGV[11])
if forgotten > 0 then
  local ids = {}
  for i = 1, forgotten do ids[i] = ARGV[at + i - 1] end
  at = at + forgotten
  local stored = values(ids)
  for i, id in ipairs(ids) do
    if stored[i] then
      leave(id, match(stored[i], HEADER))
      push(gone, RECORDS, id)
    end
  end
  settle()
end

local results, large = {}, tonumber(ARGV[at])
at = at + 1
for _ = 1, large do
  results[ARGV[at]] = ARGV[at + 1]
  at = at + 2
end

local ids = {}
local i, last = at, #ARGV
while i < last do
  local n = tonumber(ARGV[i + 3])
  i = i + 4
  for m = i, i + 3 * n - 1, 3 do ids[#ids + 1] = sub(ARGV[m], 12) end
  i = i + 3 * n
end
local stored = values(ids)

local records, roots, heads, kept = {}, {}, {}, {}
local applied, k = 0, 0
i = at
while i < last do
  local state, agent, root, n = ARGV[i], ARGV[i + 1], ARGV[i + 2], tonumber(ARGV[i + 3])
  i = i + 4
  local cancelled = state == 'cancelled'
  local by_state = of(into, prefix .. 's:' .. state)
  local by_agent, shown, by_root
  if not cancelled then
    by_agent, shown = of(into, prefix .. 'a:' .. agent), of(into, SHOWN)
    if root ~= '' then
      trees = '1'
      by_root = of(into, prefix .. 'r:' .. root)
      heads[root] = true
    end
  end
  for m = i, i + 3 * n - 1, 3 do
    local member, ended, record = ARGV[m], ARGV[m + 1], ARGV[m + 2]
    k = k + 1
    local id, old = ids[k], stored[k]
    local fresh, moved, keep = true, true, true
    if old then
      local orev, ostate, oagent, oroot, ocreated, oended, oresult = match(old, HEADER)
      local rev, result = match(record, '^(%d+) %l+ %S+ %S+ %x+ %d+ (%S+)\n')
      orev, rev = tonumber(orev), tonumber(rev)
      -- A result that was read back from the journal may come after its task.
      if rev < orev or (rev == orev and (result == '-' or oresult ~= '-')) then
        keep = false
      elseif ocreated ~= sub(member, 1, 11) or oagent ~= agent or oroot ~= (root == '' and '-' or root)
          or (oended ~= '0' and ended == '0') or (ostate == 'cancelled' and not cancelled) then
        -- The id was forgotten and used again: another task.
        leave(id, orev, ostate, oagent, oroot, ocreated, oended, oresult)
      else
        fresh, moved = false, ostate ~= state
        if moved then
          push(out, prefix .. 's:' .. ostate, member)
          if cancelled then
            push(out, SHOWN, member)
            push(out, prefix .. 'a:' .. agent, member)
            if trees then push(out, prefix .. 'r:' .. (oroot == '-' and id or oroot), member) end
          end
        end
        if result == '-' and oresult ~= '-' then
          -- Touched once more after its result was written: that stays.
          local line = match(record, '^[^\n]*')
          local bytes = oresult == 'x' and 0 or tonumber(oresult)
          local from = string.find(old, '\n', 1, true)
          record = sub(line, 1, -2) .. oresult .. '\n' .. sub(old, from + 1, from + bytes)
            .. sub(record, #line + 2)
        end
      end
    end
    if keep then
      applied = applied + 1
      records[#records + 1] = id
      records[#records + 1] = record
      if large > 0 and results[id] then
        kept[#kept + 1] = id
        kept[#kept + 1] = results[id]
      end
      if moved then
        local s = #by_state
        by_state[s + 1], by_state[s + 2] = '0', member
      end
      if fresh and not cancelled then
        local s, a = #shown, #by_agent
        shown[s + 1], shown[s + 2] = '0', member
        by_agent[a + 1], by_agent[a + 2] = '0', member
        if by_root then
          local r = #by_root
          by_root[r + 1], by_root[r + 2] = '0', member
        elseif trees then
          roots[#roots + 1] = member
        end
      end
      if ended ~= '0' and (fresh or moved) then
        local done = of(into, DONE)
        local d = #done
        done[d + 1], done[d + 2] = ended, id
      end
    end
  end
  i = i + 3 * n
end

-- A tree gets its set with its first child; the root joins then, or later if it is written later.
if #roots > 0 then
  local names = {}
  for r, member in ipairs(roots) do names[r] = prefix .. 'r:' .. sub(member, 12) end
  local some = 0
  for r = 1, #names, STEP do some = some + call('EXISTS', unpack(names, r, math.min(r + STEP - 1, #names))) end
  if some > 0 then
    for r, name in ipairs(names) do
      if call('EXISTS', name) == 1 then call('ZADD', name, '0', roots[r]) end
    end
  end
end
settle()
many('HSET', RECORDS, records)
many('HSET', RESULTS, kept)
for root in pairs(heads) do
  local head = call('HGET', RECORDS, root)
  if head then
    local _, state, _, _, created = match(head, HEADER)
    if state ~= 'cancelled' then call('ZADD', prefix .. 'r:' .. root, '0', created .. root) end
  end
end

local dropped = 0
local function trim(old)
  if #old > 0 then
    drop(old)
    dropped = dropped + #old
  end
end
trim(call('ZRANGE', DONE, '-inf', string.format('(%.0f', now - retain_ms), 'BYSCORE', 'LIMIT', 0, most_drops))
local ended = call('ZCARD', DONE)
local excess = math.min(ended - retain_tasks, most_drops - dropped)
if excess > 0 then
  trim(call('ZRANGE', DONE, 0, excess - 1))
  ended = ended - excess
end

local fields = {'generation', generation, 'epoch', ARGV[3], 'flush', ARGV[4],
  'retain_tasks', string.format('%.0f', retain_tasks), 'retain_ms', string.format('%.0f', retain_ms)}
if trees then fields[#fields + 1], fields[#fields + 2] = 'trees', '1' end
if ARGV[6] ~= '' then fields[#fields + 1], fields[#fields + 2] = 'seq', ARGV[6] end
call('HSET', KEYS[1], unpack(fields))
local word = 'ok'
if call('EXISTS', RECORDS) == 1 then
  call('PERSIST', KEYS[1])
else
  call('PEXPIRE', KEYS[1], 3600000)
  word = 'empty'
end

local due = 0
if ended > retain_tasks then
  due = now
elseif ended > 0 then
  due = tonumber(call('ZRANGE', DONE, 0, 0, 'WITHSCORES')[2]) + retain_ms
end
return {word, applied, dropped, string.format('%.0f', due)}
