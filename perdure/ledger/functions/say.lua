-- perdure_v1_say: a player says something, to its zone or to another player.
-- KEYS[1] base; ARGV player (8 raw bytes), session, to (a name, or empty for the zone), key of that player (8 raw bytes), text
-- answer  OK | NOT_HERE | OFFLINE
-- errors  CLOSED ... before the world is open; WRONGTYPE, PERDURE ... (a damaged record)

local function say(keys, args)
  local base, session, to = keys[1], args[2], args[3]
  check_open(base)
  want('stream', base .. KEY.CHAT)
  local player = player_of(base, hex_of(args[1]))
  if not player or player.session ~= session or player.place == '-1' then return 'NOT_HERE' end
  if to ~= '' then
    local other = player_of(base, hex_of(args[4]))
    if not other or other.place == '-1' or other.name ~= to then return 'OFFLINE' end
  end
  redis.call('XADD', base .. KEY.CHAT, 'MAXLEN', '=', LIMIT.CHAT, '*', 'f', player.name, 't', to, 'z', player.place, 'x', args[5])
  redis.call('PUBLISH', base .. CHANNEL.CHAT, player.place)
  return 'OK'
end

redis.register_function('perdure_v1_say', say)
