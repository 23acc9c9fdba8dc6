-- perdure_v1_successor_ready: the successor follows the zone's log.
-- KEYS[1] base; ARGV zone, shard
-- answer  1 | 0 where it is not asked for any more, or said so before
-- errors  WRONGTYPE, PERDURE ... (a damaged version)

local function successor_ready(keys, args)
  local base, zone, shard = keys[1], args[1], args[2]
  control(base, 'version', 0)
  if redis.call('HGET', base .. KEY.SUCCESSORS, zone) ~= '0 ' .. shard then return 0 end
  redis.call('HSET', base .. KEY.SUCCESSORS, zone, '1 ' .. shard)
  raise_version(base)
  return 1
end

redis.register_function('perdure_v1_successor_ready', successor_ready)
