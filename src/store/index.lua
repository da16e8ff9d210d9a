-- Writes one tenant's touched tasks, then drops what retention no longer keeps. Key names: keys.rs.
--
-- KEYS[1]  the tenant's meta hash; every other key has the same hash tag
-- ARGV     1 prefix  2 generation  3 epoch  4 flush  5 flush this writer last wrote here, '' if none
--          6 journal seq  7 now  8 retain_tasks, '' to keep the stored  9 retain_ms  10 most drops
--          then per task: id, record ('' for a forgotten one), result or ''
-- Returns  {word, applied, dropped, due}; due: when the oldest terminal task is to go, 0 if there is none
--          'ok'; 'empty': ok, and the tenant has no task left; 'fenced': a newer owner or flush was here;
--          'lost': not what this writer wrote last; 'foreign': another generation. The last three have
--          changed nothing.
local prefix, generation = ARGV[1], ARGV[2]
local epoch, flush = tonumber(ARGV[3]), tonumber(ARGV[4])
local known = ARGV[5]
local now, most_drops = tonumber(ARGV[7]), tonumber(ARGV[10])
local retain_tasks, retain_ms = ARGV[8], ARGV[9]

local meta = redis.call('HMGET', KEYS[1], 'generation', 'epoch', 'flush', 'retain_tasks', 'retain_ms')
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

local HEADER = '^(%d+) (%l+) (%S+) (%S+) (%x+) (%d+)\n'
local function call(...) return redis.call(...) end
local function done_entry(task, state, agent, root, created)
  return task .. ' ' .. state .. ' ' .. agent .. ' ' .. root .. ' ' .. created
end

-- Takes a task out of every set it is in, its record aside.
local function leave(task, state, agent, root, created)
  local member = created .. task
  call('ZREM', prefix .. 'all', member)
  call('ZREM', prefix .. 's:' .. state, member)
  call('ZREM', prefix .. 'done', done_entry(task, state, agent, root, created))
  if state ~= 'cancelled' then
    call('ZREM', prefix .. 'shown', member)
    call('ZREM', prefix .. 'a:' .. agent, member)
  end
  call('ZREM', prefix .. 'r:' .. root, member)
end

-- A tree gets its set with its first child; the root joins then, or later if it is written later.
local function join_tree(task, root, member)
  local tree = prefix .. 'r:' .. root
  if task == root then
    if call('EXISTS', tree) == 1 then call('ZADD', tree, 0, member) end
    return
  end
  call('ZADD', tree, 0, member)
  if call('ZCARD', tree) == 1 then
    local head = call('GETRANGE', prefix .. 't:' .. root, 0, 255)
    local _, state, _, _, created = string.match(head, HEADER)
    if state and state ~= 'cancelled' then call('ZADD', tree, 0, created .. root) end
  end
end

local function set_result(task, result, ...)
  call('SET', prefix .. 'x:' .. task, result, 'PX', string.format('%.0f', math.max(retain_ms, 1000)), ...)
end

local function write(task, record, result)
  local key = prefix .. 't:' .. task
  local old = call('GETRANGE', key, 0, 255)
  local orev, ostate, oagent, oroot, ocreated, oended = string.match(old, HEADER)
  if record == '' then
    if orev then leave(task, ostate, oagent, oroot, ocreated) end
    call('UNLINK', key, prefix .. 'x:' .. task)
    return 0
  end
  local rev, state, agent, root, created, ended = string.match(record, HEADER)
  if orev and tonumber(orev) >= tonumber(rev) then
    -- A result that was read back from the journal may come after its task.
    if orev == rev and result ~= '' then set_result(task, result, 'NX') end
    return 0
  end

  local member = created .. task
  local fresh = not orev
  if orev and (ocreated ~= created or oagent ~= agent or oroot ~= root
      or (oended ~= '0' and ended == '0') or (ostate == 'cancelled' and state ~= ostate)) then
    -- The id was forgotten and used again: another task.
    leave(task, ostate, oagent, oroot, ocreated)
    call('UNLINK', prefix .. 'x:' .. task)
    fresh = true
  elseif orev and ostate ~= state then
    call('ZREM', prefix .. 's:' .. ostate, member)
    if oended ~= '0' then call('ZREM', prefix .. 'done', done_entry(task, ostate, agent, root, created)) end
  end

  if fresh then call('ZADD', prefix .. 'all', 0, member) end
  if fresh or ostate ~= state then call('ZADD', prefix .. 's:' .. state, 0, member) end
  if state == 'cancelled' then
    if not fresh then
      call('ZREM', prefix .. 'shown', member)
      call('ZREM', prefix .. 'a:' .. agent, member)
      call('ZREM', prefix .. 'r:' .. root, member)
    end
  elseif fresh then
    call('ZADD', prefix .. 'shown', 0, member)
    call('ZADD', prefix .. 'a:' .. agent, 0, member)
    join_tree(task, root, member)
  end

  if ended == '0' then
    call('SET', key, record)
  else
    call('SET', key, record, 'PX', string.format('%.0f', retain_ms + 3600000))
    call('ZADD', prefix .. 'done', ended, done_entry(task, state, agent, root, created))
  end
  if result ~= '' then set_result(task, result) end
  return 1
end

local done = prefix .. 'done'
local dropped = 0
local function drop(entries)
  for _, entry in ipairs(entries) do
    local task, state, agent, root, created = string.match(entry, '^(%S+) (%S+) (%S+) (%S+) (%S+)$')
    local head = call('GETRANGE', prefix .. 't:' .. task, 0, 255)
    local _, _, _, _, current = string.match(head, HEADER)
    if not current or current == created then
      call('UNLINK', prefix .. 't:' .. task, prefix .. 'x:' .. task)
    end
    leave(task, state, agent, root, created)
    dropped = dropped + 1
  end
end

local applied = 0
for i = 11, #ARGV, 3 do
  applied = applied + write(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end

drop(call('ZRANGE', done, '-inf', string.format('(%.0f', now - retain_ms), 'BYSCORE', 'LIMIT', 0, most_drops))
local excess = math.min(call('ZCARD', done) - retain_tasks, most_drops - dropped)
if excess > 0 then drop(call('ZRANGE', done, 0, excess - 1)) end

call('HSET', KEYS[1], 'generation', generation, 'epoch', ARGV[3], 'flush', ARGV[4],
  'retain_tasks', string.format('%.0f', retain_tasks), 'retain_ms', string.format('%.0f', retain_ms))
if ARGV[6] ~= '' then call('HSET', KEYS[1], 'seq', ARGV[6]) end
local word = 'ok'
if call('EXISTS', prefix .. 'all') == 1 then
  call('PERSIST', KEYS[1])
else
  call('PEXPIRE', KEYS[1], 3600000)
  word = 'empty'
end

local due = 0
local oldest = call('ZRANGE', done, 0, 0, 'WITHSCORES')
if oldest[2] then
  due = tonumber(oldest[2]) + retain_ms
  if call('ZCARD', done) > retain_tasks then due = now end
end
return {word, applied, dropped, string.format('%.0f', due)}
