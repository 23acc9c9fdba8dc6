-- perdure_v1_intend: ask a shard to prefetch a zone.
-- KEYS[1] base; ARGV term, zone, successor ('' withdraws)
-- answer  1 | 0 where that is so already
-- errors  PERDURE ... where the term is over or the zone was never assigned; WRONGTYPE

local function intend(keys, args)
  local base, zone, successor = keys[1], args[2], args[3]
  check_term(base, args[1])
  if not redis.call('HGET', base .. KEY.OWNERS, zone) then refuse('zone ' .. zone .. ' was never assigned: assign it first') end
  local now = redis.call('HGET', base .. KEY.SUCCESSORS, zone)
  if (now and string.sub(now, 3) or '') == successor then return 0 end

  redis.call('HDEL', base .. KEY.SUCCESSORS, zone, zone .. ':image')
  if successor ~= '' then
    redis.call('HSET', base .. KEY.SUCCESSORS, zone, '0 ' .. successor)
  end
  raise_version(base)
  return 1
end

redis.register_function('perdure_v1_intend', intend)
