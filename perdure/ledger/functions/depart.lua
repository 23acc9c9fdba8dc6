-- perdure_v1_depart: a member leaves by itself.
-- KEYS[1] base; ARGV member, number
-- answer  1 | 0 where it is not registered
-- errors  WRONGTYPE, PERDURE ... (a damaged record)

local function depart(keys, args)
  return remove_member(keys[1], args[1], args[2])
end

redis.register_function('perdure_v1_depart', depart)
