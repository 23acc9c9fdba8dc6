-- perdure_v1_put_checkpoint: store a blob that nothing refers to yet.
-- KEYS[1] base; ARGV zone, tick, epoch, blob
-- answer  1
-- errors  WRONGTYPE

local function put_checkpoint(keys, args)
  local base, zone, at = keys[1], args[1], args[2] .. ':' .. args[3]
  local blob_key = base .. KEY.BLOB .. zone .. ':' .. at
  want('set', base .. KEY.BLOBS .. zone)
  want('string', blob_key)
  redis.call('SADD', base .. KEY.BLOBS .. zone, at)
  redis.call('SET', blob_key, args[4])
  return 1
end

redis.register_function('perdure_v1_put_checkpoint', put_checkpoint)
