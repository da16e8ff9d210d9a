#!lua flags=no-writes
-- One page of members, newest first, and their records.
--
-- KEYS     1 the records  2... sets that each hold everything asked for: the smallest is read; or the two
--          whose union does
-- ARGV     1 where to start: '+', or '(' and the member to start after  2 members at most  3 how many of them
--          need no record  4 'union' or ''  5 which set is a tree's, from 1, or 0  6 the member to take if
--          that one is empty, or ''  7 where to end: '-', or '[' and what members are not below
-- Returns  {members, how many follow them, records of all but the first ARGV[3]}
local call = redis.call
local records, start, most, lowest = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[7]

local function read(key)
  return call('ZRANGE', key, start, lowest, 'BYLEX', 'REV', 'LIMIT', 0, most)
end
local function behind(key, member)
  return call('ZLEXCOUNT', key, lowest, '(' .. member)
end

-- By bytes, as the sets are; Lua's own comparison goes by the server's locale.
local function newer(a, b)
  local n = math.min(#a, #b)
  for i = 1, n do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x > y end
  end
  return #a > #b
end

local members, follow = {}, 0
if ARGV[4] == 'union' then
  local a, b = read(KEYS[2]), read(KEYS[3])
  if #b == 0 then
    members = a
  elseif #a == 0 then
    members = b
  else
    local i, j = 1, 1
    while #members < most and (a[i] or b[j]) do
      if not b[j] or (a[i] and newer(a[i], b[j])) then
        members[#members + 1] = a[i]
        i = i + 1
      else
        members[#members + 1] = b[j]
        j = j + 1
      end
    end
  end
  if #members > 0 then
    follow = behind(KEYS[2], members[#members]) + behind(KEYS[3], members[#members])
  end
else
  local set, least = 2, nil
  if #KEYS > 2 then
    for i = 2, #KEYS do
      local size = call('ZCARD', KEYS[i])
      if not least or size < least then set, least = i, size end
    end
  end
  members = read(KEYS[set])
  if #members > 0 then
    follow = behind(KEYS[set], members[#members])
  elseif ARGV[6] ~= '' and tonumber(ARGV[5]) == set - 1 then
    members = {ARGV[6]}
  end
end

local from, ids = tonumber(ARGV[3]) + 1, {}
for i = from, #members do ids[#ids + 1] = string.sub(members[i], 12) end
if #ids == 0 then return {members, follow, {}} end
return {members, follow, call('HMGET', records, unpack(ids))}
