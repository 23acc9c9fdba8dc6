-- perdure_v1_evict: take a member's incarnation out; its next heartbeat is told so.
-- KEYS[1] base; ARGV term, member, number
-- answer  1 | 0 where it is not registered
-- errors  PERDURE ... where the term is over, or the world not open; WRONGTYPE

local function evict(keys, args)
  check_decided(keys[1], args[1])
  return remove_member(keys[1], args[2], args[3])
end

redis.register_function('perdure_v1_evict', evict)
