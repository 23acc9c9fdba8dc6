-- perdure_v1_assign: give a zone to a shard at epoch + 1, under the world's generation at least; this fences the old owner at once.
-- KEYS[1] base; ARGV term, zone, shard ('' for nobody), expected epoch, '1' where the newest checkpoint must be of the last tick
-- answer  new epoch
-- errors  PERDURE ... where the term is over, the world not open, the epoch another, or the log goes on behind the checkpoint; WRONGTYPE

local function assign(keys, args)
  local base, zone, shard, expected = keys[1], args[2], args[3], args[4]
  check_decided(base, args[1])
  local generation, epoch, tick, digest, known = head_of(base, zone)
  if epoch ~= expected then refuse('zone ' .. zone .. ' is at epoch ' .. epoch .. ', not ' .. expected .. ': read the view anew') end
  if args[5] == '1' and known then
    local newest = string.match(redis.call('GET', base .. KEY.CHECKPOINTS .. zone) or '', '^%d+') or '0'
    if newest ~= tick then
      refuse('zone ' .. zone .. ' stands at tick ' .. tick .. ', its checkpoint at ' .. newest .. ': its owner has not handed it over')
    end
  end
  want('hash', base .. KEY.OWNERS, base .. KEY.SUCCESSORS)

  local new_epoch, world_generation = digits(tonumber(epoch) + 1), control(base, 'generation', 1)
  local new_generation = digits(math.max(tonumber(generation), world_generation))
  redis.call('SET', base .. KEY.HEAD .. zone, new_generation .. ' ' .. new_epoch .. ' ' .. tick .. ' ' .. digest)
  redis.call('HSET', base .. KEY.OWNERS, zone, shard)
  redis.call('HDEL', base .. KEY.SUCCESSORS, zone, zone .. ':image')
  raise_version(base)
  return new_epoch
end

redis.register_function('perdure_v1_assign', assign)
