-- perdure_v1_online: who is in a zone.
-- KEYS[1] base; ARGV zone
-- answer  {player in hex, presence row, ...}

local function online(keys, args)
  local base = keys[1]
  local players, reply = redis.call('SMEMBERS', base .. KEY.ZONE_PLAYERS .. args[1]), {}
  for first = 1, #players, 1000 do
    local last = math.min(first + 999, #players)
    local rows = redis.call('HMGET', base .. KEY.ONLINE, unpack(players, first, last))
    for i = first, last do
      reply[#reply + 1] = players[i]
      reply[#reply + 1] = rows[i - first + 1]
    end
  end
  return reply
end

redis.register_function({ function_name = 'perdure_v1_online', callback = online, flags = { 'no-writes' } })
