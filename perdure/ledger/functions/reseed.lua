-- perdure_v1_reseed: a live owner restores a zone that the ledger forgot.
-- KEYS[1] base; ARGV zone, generation, epoch, tick, digest, blob, blob digest
-- answer  as zone_head
-- errors  PERDURE ... where the ledger is ahead of the caller; WRONGTYPE

local function reseed(keys, args)
  local base, zone, generation, epoch, tick = keys[1], args[1], args[2], args[3], args[4]
  local has_generation, has_epoch, at = head_of(base, zone)
  local order = compare(has_generation, has_epoch, generation, epoch)
  if order > 0 or (order == 0 and tonumber(at) > tonumber(tick)) then
    refuse('zone ' .. zone .. ' is at generation ' .. has_generation .. ', epoch ' .. has_epoch .. ', tick ' .. at
      .. ' in the ledger, ahead of ' .. generation .. ', ' .. epoch .. ', ' .. tick .. ': drop it and load it from there')
  end
  local blobs_key, log_key = base .. KEY.BLOBS .. zone, base .. KEY.LOG .. zone
  want('stream', log_key)
  want('set', blobs_key)
  want('string', base .. KEY.CHECKPOINTS .. zone)
  want('hash', base .. KEY.OWNERS)
  want('list', base .. KEY.INBOX .. zone)
  control(base, 'version', 0)
  local world_generation = control(base, 'generation', 1)
  local new_generation = digits(tonumber(generation) + 1)
  local new_epoch = digits(math.max(tonumber(has_epoch), tonumber(epoch)) + LIMIT.RESEED_STEP)
  local blob_key = base .. KEY.BLOB .. zone .. ':' .. tick .. ':' .. new_epoch
  want('string', blob_key)

  for _, blob in ipairs(redis.call('SMEMBERS', blobs_key)) do redis.call('UNLINK', base .. KEY.BLOB .. zone .. ':' .. blob) end
  redis.call('DEL', blobs_key, log_key)
  redis.call('SET', blob_key, args[6])
  redis.call('SADD', blobs_key, tick .. ':' .. new_epoch)
  redis.call('SET', base .. KEY.CHECKPOINTS .. zone, tick .. ' ' .. new_epoch .. ' ' .. args[7])
  redis.call('SET', base .. KEY.HEAD .. zone, new_generation .. ' ' .. new_epoch .. ' ' .. tick .. ' ' .. args[5])
  redis.call('HSETNX', base .. KEY.OWNERS, zone, '')
  redis.call('HSET', base .. KEY.CONTROL, 'generation', digits(math.max(world_generation, tonumber(new_generation))))
  raise_version(base)
  return {
    new_generation, new_epoch, tick, args[5], redis.call('HGET', base .. KEY.OWNERS, zone),
    tick .. ' ' .. new_epoch .. ' ' .. args[7], redis.call('LLEN', base .. KEY.INBOX .. zone),
  }
end

redis.register_function('perdure_v1_reseed', reseed)
