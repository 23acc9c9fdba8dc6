-- perdure_v1_read_checkpoint: the blob of a kept checkpoint.
-- KEYS[1] base; ARGV zone, tick
-- answer  blob | nil where no kept checkpoint is of that tick

local function read_checkpoint(keys, args)
  local base, zone = keys[1], args[1]
  for tick, epoch in string.gmatch(redis.call('GET', base .. KEY.CHECKPOINTS .. zone) or '', '(%d+) (%d+) %x*') do
    if tick == args[2] then return redis.call('GET', base .. KEY.BLOB .. zone .. ':' .. tick .. ':' .. epoch) end
  end
  return false
end

redis.register_function({ function_name = 'perdure_v1_read_checkpoint', callback = read_checkpoint, flags = { 'no-writes' } })
