-- perdure_v1_init_world: record the world if there is none.
-- KEYS[1] base; ARGV field, value, ...
-- answer  {field, value, ...} of what is recorded
-- errors  WRONGTYPE

local function init_world(keys, args)
  local world_key = keys[1] .. KEY.WORLD
  if redis.call('HLEN', world_key) == 0 then redis.call('HSET', world_key, unpack(args)) end
  return redis.call('HGETALL', world_key)
end

redis.register_function('perdure_v1_init_world', init_world)
