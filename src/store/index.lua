-- Writes one tenant's touched tasks, then drops what retention no longer keeps. Key names: keys.rs, records:
-- record.rs. What is to be done is gathered over all tasks first, then done with few commands of many members.
--
-- KEYS[1]  the tenant's meta hash; every other key has the same hash tag
-- ARGV     1 prefix  2 generation  3 epoch  4 flush  5 flush this writer last wrote here, '' if none
--          6 journal seq  7 now  8 retain_tasks, '' to keep the stored  9 retain_ms  10 most drops
--          11 when the first of the tasks below ended, 0 if none has  12 how many forgotten tasks, then their ids
--          how many groups of tasks, how many of them are planned, how many of these are of new tasks; tasks, planned
--          ones, ends of planned ones, large results, where in the data these begin
--          the groups: state, agent, root ('' for tasks that are their own), parent as records tell it, how many
--          how many checks, then of each command, key, first and last of its members in the data
--          how many planned commands, then the same of each
--          the data (plan.rs): of every task 0 and its member, then id and record; of ended ones when and id; what
--          checks and commands need; id and result of large ones
-- Returns  {word, applied, dropped, due}; due: when the oldest terminal task is to go, 0 if there is none
--          'ok'; 'empty': ok, and the tenant has no task left; 'fenced': a newer owner or flush was here;
--          'lost': not what this writer wrote last; 'foreign': another generation. The last three have
--          changed nothing.
-- Most calls write new tasks of a tenant that keeps few enough: they look at the meta hash and the stored records,
-- write, and count what has ended. Everything else is done only when something asks for it.
local prefix, generation = ARGV[1], ARGV[2]
local epoch, flush = tonumber(ARGV[3]), tonumber(ARGV[4])
local known = ARGV[5]
local now, most_drops, first_end = tonumber(ARGV[7]), tonumber(ARGV[10]), tonumber(ARGV[11])
local retain_tasks, retain_ms = ARGV[8], ARGV[9]
local call, match, sub = redis.call, string.match, string.sub

local meta = call('HMGET', KEYS[1], 'generation', 'epoch', 'flush', 'retain_tasks', 'retain_ms', 'trees', 'due', 'idle')
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
local same_retention = retain_tasks == meta[4] and retain_ms == meta[5]
retain_tasks, retain_ms = tonumber(retain_tasks), tonumber(retain_ms)

local HEADER = '^(%d+) (%l+) (%S+) (%S+) (%S+) (%x+) (%d+) (%S+)\n'
local RECORDS, RESULTS = prefix .. 't', prefix .. 'x'
local SHOWN, DONE = prefix .. 'shown', prefix .. 'done'
local LIVE = {queued = true, running = true, waiting = true, retrying = true}
-- Whether the tenant ever had a tree of two: without one no task needs a look at a tree's set.
local trees = meta[6]

-- One command with all of the list `args`, as many as fit on Lua's stack at once.
local STEP = 2000
local function many(command, key, args)
  local n = args.n
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
    list = {n = 0}
    lists[key] = list
  end
  return list
end
-- Lists know their length: Lua would look for it.
local function push(lists, key, value)
  local list = of(lists, key)
  local n = list.n + 1
  list[n], list.n = value, n
end
-- Behind a score.
local function add(list, score, member)
  local n = list.n
  list[n + 1], list[n + 2], list.n = score, member, n + 2
end
-- Something has left the set of ended tasks, or the hash of records.
local done_left, records_left = false, false

-- Out of every set that a stored task is in; its record stays. Takes the header as it is matched.
local function leave(id, _, state, agent, root, parent, created, ended, result)
  local member = created .. id
  push(out, prefix .. 's:' .. state, member)
  if state ~= 'cancelled' then
    push(out, SHOWN, member)
    push(out, prefix .. 'a:' .. agent, member)
    if trees then push(out, prefix .. 'r:' .. (root == '-' and id or root), member) end
    if parent ~= '-' then push(out, prefix .. 'p:' .. (parent == '=' and root or parent), member) end
  end
  if ended ~= '0' then
    push(out, DONE, id)
    done_left = true
  end
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
local forgotten = tonumber(ARGV[at])
if forgotten > 0 then
  local ids = {}
  for i = 1, forgotten do ids[i] = ARGV[at + i] end
  local stored = values(ids)
  for i, id in ipairs(ids) do
    if stored[i] then
      leave(id, match(stored[i], HEADER))
      push(gone, RECORDS, id)
      records_left = true
    end
  end
  settle()
end

at = at + 1 + forgotten
local groups, planned_groups, new_groups = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
local tasks, planned, planned_ends = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
local large, large_at = tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
local group_at = at + 8
local check_at = group_at + 5 * groups
local checks = tonumber(ARGV[check_at])
local command_at = check_at + 1 + 4 * checks
local commands = tonumber(ARGV[command_at])
-- Of the data: the first one has number 0.
local data = command_at + 1 + 4 * commands

-- A command that is all there: its members are a range of the data.
local function ready(i)
  return call(ARGV[i], ARGV[i + 1], unpack(ARGV, data + tonumber(ARGV[i + 2]), data + tonumber(ARGV[i + 3])))
end

-- Whether what is stored is as the planned commands suppose: new tasks are not there, others are in their state's set.
local function as_supposed()
  for i = check_at + 1, command_at - 1, 4 do
    local there = ARGV[i] == 'ZMSCORE'
    local found = ready(i)
    for m = 1, #found do
      if (found[m] and true or false) ~= there then return false end
    end
    if not there and trees then
      -- A new root may find the tree of another that had its id.
      local names = {}
      for m = 1, #found do names[m] = prefix .. 'r:' .. ARGV[data + tonumber(ARGV[i + 2]) + m - 1] end
      if call('EXISTS', unpack(names)) > 0 then return false end
    end
  end
  return true
end

local roots, heads, applied = {}, {}, 0

-- All groups from the number `g` on, of which the first task has the number `k`, the first end the number `e`.
local function write_carefully(g, k, e)
  local results = {}
  for i = data + large_at, data + large_at + 2 * large - 1, 2 do results[ARGV[i]] = ARGV[i + 1] end
  local ids = {}
  for t = k, tasks - 1 do ids[#ids + 1] = ARGV[data + 2 * tasks + 2 * t] end
  local stored, first = values(ids), k - 1
  local records, kept, done = {n = 0}, {n = 0}, {n = 0}
  for i = group_at + 5 * g, check_at - 1, 5 do
    local state, agent, root, parent, n = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4])
    local cancelled, live = state == 'cancelled', LIVE[state]
    local by_state = of(into, prefix .. 's:' .. state)
    local by_agent, shown, by_root, by_parent
    if not cancelled then
      by_agent, shown = of(into, prefix .. 'a:' .. agent), of(into, SHOWN)
      if root ~= '' then
        trees = '1'
        by_root = of(into, prefix .. 'r:' .. root)
        heads[root] = true
      end
      if parent ~= '-' then by_parent = of(into, prefix .. 'p:' .. (parent == '=' and root or parent)) end
    end
    for t = k, k + n - 1 do
      local member, record = ARGV[data + 2 * t + 1], ARGV[data + 2 * tasks + 2 * t + 1]
      local id, old, ended = ids[t - first], stored[t - first], '0'
      if not live then
        ended = ARGV[data + 4 * tasks + 2 * e]
        e = e + 1
      end
      local fresh, moved, keep = true, true, true
      if old then
        local orev, ostate, oagent, oroot, oparent, ocreated, oended, oresult = match(old, HEADER)
        local rev, result = tonumber(match(record, '^%d+')), '-'
        orev = tonumber(orev)
        if rev == orev or oresult ~= '-' then result = match(record, '^%d+ %l+ %S+ %S+ %S+ %x+ %d+ (%S+)\n') end
        -- A result that was read back from the journal may come after its task.
        if rev < orev or (rev == orev and (result == '-' or oresult ~= '-')) then
          keep = false
        elseif ocreated ~= sub(member, 1, 11) or oagent ~= agent or oroot ~= (root == '' and '-' or root)
            or oparent ~= parent or (oended ~= '0' and live) or (ostate == 'cancelled' and not cancelled) then
          -- The id was forgotten and used again: another task.
          leave(id, orev, ostate, oagent, oroot, oparent, ocreated, oended, oresult)
        else
          fresh, moved = false, ostate ~= state
          if moved then
            push(out, prefix .. 's:' .. ostate, member)
            if cancelled then
              push(out, SHOWN, member)
              push(out, prefix .. 'a:' .. agent, member)
              if trees then push(out, prefix .. 'r:' .. (oroot == '-' and id or oroot), member) end
              if oparent ~= '-' then push(out, prefix .. 'p:' .. (oparent == '=' and oroot or oparent), member) end
            end
          end
          if result == '-' and oresult ~= '-' then
            -- Touched once more after its result was written: that stays.
            local line = match(record, '^[^\n]*')
            local bytes = tonumber(oresult) or 0
            local from = string.find(old, '\n', 1, true)
            record = sub(line, 1, -2) .. oresult .. '\n' .. sub(old, from + 1, from + bytes)
              .. sub(record, #line + 2)
          end
        end
      end
      if keep then
        applied = applied + 1
        add(records, id, record)
        if results[id] then add(kept, id, results[id]) end
        if moved then add(by_state, '0', member) end
        if fresh and not cancelled then
          add(shown, '0', member)
          add(by_agent, '0', member)
          if by_parent then add(by_parent, '0', member) end
          if by_root then
            add(by_root, '0', member)
          elseif trees then
            roots[#roots + 1] = member
          end
        end
        if not live and (fresh or moved) then add(done, ended, id) end
      end
    end
    k = k + n
  end
  settle()
  many('ZADD', DONE, done)
  many('HSET', RECORDS, records)
  many('HSET', RESULTS, kept)
end

if planned > 0 and as_supposed() then
  for g = 0, new_groups - 1 do
    local root = ARGV[group_at + 5 * g + 2]
    if root ~= '' then
      trees = '1'
      heads[root] = true
    end
  end
  for i = command_at + 1, data - 1, 4 do ready(i) end
  applied = planned
  if planned_groups < groups then write_carefully(planned_groups, planned, planned_ends) end
elseif groups > 0 then
  write_carefully(0, 0, 0)
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
for root in pairs(heads) do
  local head = call('HGET', RECORDS, root)
  if head then
    local _, state, _, _, _, created = match(head, HEADER)
    if state ~= 'cancelled' then call('ZADD', prefix .. 'r:' .. root, '0', created .. root) end
  end
end

-- Retention. `due` says when it has to look next, as long as nothing but later ends come; more ends than are kept it
-- sees by their number.
local due = tonumber(meta[7])
local look = not (due and same_retention) or done_left
if not look and first_end > 0 and (due == 0 or first_end + retain_ms < due) then due = first_end + retain_ms end
look = look or (due > 0 and due <= now)
local dropped, ended = 0, 0
if look or first_end > 0 then ended = call('ZCARD', DONE) end
if look or ended > retain_tasks then
  local function trim(old)
    if #old > 0 then
      drop(old)
      dropped = dropped + #old
      ended = ended - #old
      records_left = true
    end
  end
  if ended > 0 then
    trim(call('ZRANGE', DONE, '-inf', string.format('(%.0f', now - retain_ms), 'BYSCORE', 'LIMIT', 0, most_drops))
  end
  local excess = math.min(ended - retain_tasks, most_drops - dropped)
  if excess > 0 then trim(call('ZRANGE', DONE, 0, excess - 1)) end
  due = 0
  if ended > retain_tasks then
    due = now
  elseif ended > 0 then
    due = tonumber(call('ZRANGE', DONE, 0, 0, 'WITHSCORES')[2]) + retain_ms
  end
end
due = string.format('%.0f', due)

-- What stands there already is not written again.
local fields = {'flush', ARGV[4]}
local function field(name, value)
  fields[#fields + 1], fields[#fields + 2] = name, value
end
if ARGV[6] ~= '' then field('seq', ARGV[6]) end
if meta[7] ~= due then field('due', due) end
if not meta[1] then field('generation', generation) end
if meta[2] ~= ARGV[3] then field('epoch', ARGV[3]) end
if not same_retention then
  field('retain_tasks', string.format('%.0f', retain_tasks))
  field('retain_ms', string.format('%.0f', retain_ms))
end
if trees and not meta[6] then field('trees', '1') end
local empty = (applied == 0 or records_left) and call('EXISTS', RECORDS) == 0
if empty then field('idle', '1') end
call('HSET', KEYS[1], unpack(fields))
if empty then
  call('PEXPIRE', KEYS[1], 3600000)
elseif meta[1] and (meta[8] or known == '') then
  call('PERSIST', KEYS[1])
  call('HDEL', KEYS[1], 'idle')
end
return {empty and 'empty' or 'ok', applied, dropped, due}
