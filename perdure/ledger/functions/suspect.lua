-- perdure_v1_suspect: a member's port refuses.
-- KEYS[1] base; ARGV member, number, reporter
-- answer  how many reports there are now | 0 where that incarnation is not registered
-- errors  WRONGTYPE, PERDURE ... (a damaged record)

local function suspect(keys, args)
  local base, name, number = keys[1], args[1], args[2]
  local member = member_of(base, name)
  if not member or member.number ~= number then return 0 end
  number_of(redis.call('HGET', base .. KEY.SUSPECTS, name), 0, 'suspicions of ' .. name)
  local reports = redis.call('HINCRBY', base .. KEY.SUSPECTS, name, 1)
  redis.call('PUBLISH', base .. CHANNEL.SUSPECT, name .. ' ' .. number .. ' ' .. args[3])
  return reports
end

redis.register_function('perdure_v1_suspect', suspect)
