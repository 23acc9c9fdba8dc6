-- perdure_v1_resign: give the leadership up, if held.
-- KEYS[1] base; ARGV candidate
-- answer  1 | 0 where another leads

local function resign(keys, args)
  local leader_key = keys[1] .. KEY.LEADER
  if redis.call('GET', leader_key) ~= args[1] then return 0 end
  return redis.call('DEL', leader_key)
end

redis.register_function('perdure_v1_resign', resign)
