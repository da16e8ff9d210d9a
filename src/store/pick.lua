#!lua flags=no-writes
-- One page of members, newest first, from the smallest of the sets given.
--
-- KEYS     sets that each hold everything asked for
-- ARGV     1 where to start: '+', or '(' and the member to start after  2 members at most
-- Returns  {which set (from 1), members, how many follow them in that set}
local set, least = 1, nil
if #KEYS > 1 then
  for i, key in ipairs(KEYS) do
    local size = redis.call('ZCARD', key)
    if not least or size < least then set, least = i, size end
  end
end
local key = KEYS[set]
local members = redis.call('ZRANGE', key, ARGV[1], '-', 'BYLEX', 'REV', 'LIMIT', 0, ARGV[2])
local follow = 0
if #members > 0 then follow = redis.call('ZLEXCOUNT', key, '-', '(' .. members[#members]) end
return {set, members, follow}
