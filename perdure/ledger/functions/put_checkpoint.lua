-- perdure_v1_put_checkpoint: store a blob that nothing refers to yet, instead of those that the same owner stored before and that nothing
-- refers to either (the answer was lost: it does not come back to them).
-- KEYS[1] base; ARGV zone, tick, epoch, blob
-- answer  1
-- errors  WRONGTYPE

local function put_checkpoint(keys, args)
  local base, zone, tick, epoch, at = keys[1], args[1], args[2], args[3], args[2] .. ':' .. args[3]
  local blobs_key, checkpoints_key, blob_key = base .. KEY.BLOBS .. zone, base .. KEY.CHECKPOINTS .. zone, base .. KEY.BLOB .. zone .. ':' .. at
  want('set', blobs_key)
  want('string', blob_key, checkpoints_key)
  local named, stray = {}, {}
  for old_tick, old_epoch in string.gmatch(redis.call('GET', checkpoints_key) or '', '(%d+) (%d+) %x*') do
    named[old_tick .. ':' .. old_epoch] = true
  end
  for _, blob in ipairs(redis.call('SMEMBERS', blobs_key)) do
    local blob_tick, blob_epoch = string.match(blob, '^(%d+):(%d+)$')
    if blob_tick and blob_epoch == epoch and tonumber(blob_tick) < tonumber(tick) and not named[blob] then stray[#stray + 1] = blob end
  end
  for _, blob in ipairs(stray) do
    redis.call('SREM', blobs_key, blob)
    redis.call('UNLINK', base .. KEY.BLOB .. zone .. ':' .. blob)
  end
  redis.call('SADD', blobs_key, at)
  redis.call('SET', blob_key, args[4])
  return 1
end

redis.register_function('perdure_v1_put_checkpoint', put_checkpoint)
