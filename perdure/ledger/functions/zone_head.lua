-- perdure_v1_zone_head: where a zone stands.
-- KEYS[1] base; ARGV zone
-- answer  {generation, epoch, tick, digest, owner, checkpoints, inbox length}; zeros and empty for a zone never assigned

local function zone_head(keys, args)
  local base, zone = keys[1], args[1]
  local generation, epoch, tick, digest = head_of(base, zone)
  return {
    generation, epoch, tick, digest, redis.call('HGET', base .. KEY.OWNERS, zone) or '',
    redis.call('GET', base .. KEY.CHECKPOINTS .. zone) or '', redis.call('LLEN', base .. KEY.INBOX .. zone),
  }
end

redis.register_function({ function_name = 'perdure_v1_zone_head', callback = zone_head, flags = { 'no-writes' } })
