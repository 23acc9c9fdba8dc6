-- perdure_v1_flip_checkpoint: make a stored blob the newest checkpoint, keep two, delete older blobs, trim the log.
-- KEYS[1] base; ARGV zone, generation, epoch, tick, digest, '1' where the caller has read the blob back and its hash is the digest
-- answer  OK | FENCED | GAP (the ledger does not hold that tick, or has a newer checkpoint) | BROKEN (no such blob)
-- errors  WRONGTYPE, PERDURE ... (a damaged head)
-- Where a successor is ready, it is noted beside it; subscribers are told where the log has no tail now.
-- The record of the older checkpoint's own tick stays in the log: its page is what the tick after it applies.

local function flip_checkpoint(keys, args)
  local base, zone, epoch, tick = keys[1], args[1], args[3], args[4]
  local has_generation, has_epoch, at, _, known = head_of(base, zone)
  if not known then return 'GAP' end
  local order = compare(has_generation, has_epoch, args[2], epoch)
  if order > 0 and not put_back_too_early(base, zone, args[2], epoch) then return 'FENCED' end
  if order ~= 0 then return 'GAP' end
  local checkpoints_key, blobs_key = base .. KEY.CHECKPOINTS .. zone, base .. KEY.BLOBS .. zone
  want('string', checkpoints_key, base .. KEY.BLOB .. zone .. ':' .. tick .. ':' .. epoch)
  want('set', blobs_key)
  want('stream', base .. KEY.LOG .. zone)
  control(base, 'version', 0)
  local awaited = string.sub(redis.call('HGET', base .. KEY.SUCCESSORS, zone) or '', 1, 1) == '1'
  if args[6] ~= '1' or redis.call('EXISTS', base .. KEY.BLOB .. zone .. ':' .. tick .. ':' .. epoch) == 0 then return 'BROKEN' end
  if tonumber(tick) > tonumber(at) then return 'GAP' end

  local kept, keep = { tick .. ' ' .. epoch .. ' ' .. args[5] }, { [tick .. ':' .. epoch] = true }
  local oldest = tick
  for old_tick, old_epoch, old_digest in string.gmatch(redis.call('GET', checkpoints_key) or '', '(%d+) (%d+) (%x*)') do
    if tonumber(old_tick) > tonumber(tick) then return 'GAP' end
    if old_tick ~= tick and #kept < LIMIT.CHECKPOINTS then
      kept[#kept + 1] = old_tick .. ' ' .. old_epoch .. ' ' .. old_digest
      keep[old_tick .. ':' .. old_epoch] = true
      oldest = old_tick
    end
  end
  local gone = {}
  for _, blob in ipairs(redis.call('SMEMBERS', blobs_key)) do
    local blob_tick, blob_epoch = string.match(blob, '^(%d+):(%d+)$')
    if not blob_tick then refuse('the blobs of zone ' .. zone .. ' are damaged: ' .. blob) end
    if not keep[blob] and (tonumber(blob_epoch) < tonumber(epoch) or tonumber(blob_tick) <= tonumber(tick)) then gone[#gone + 1] = blob end
  end

  redis.call('SET', checkpoints_key, table.concat(kept, ';'))
  for _, blob in ipairs(gone) do
    redis.call('SREM', blobs_key, blob)
    redis.call('UNLINK', base .. KEY.BLOB .. zone .. ':' .. blob)
  end
  if #kept == LIMIT.CHECKPOINTS then redis.call('XTRIM', base .. KEY.LOG .. zone, 'MINID', '=', oldest .. '-0') end
  if awaited then
    redis.call('HSET', base .. KEY.SUCCESSORS, zone .. ':image', tick)
    if tick == at then raise_version(base) end
  end
  return 'OK'
end

redis.register_function('perdure_v1_flip_checkpoint', flip_checkpoint)
