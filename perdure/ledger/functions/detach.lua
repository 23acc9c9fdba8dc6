-- perdure_v1_detach: a session's socket is gone.
-- KEYS[1] base; ARGV player (8 raw bytes), session
-- answer  1 | 0 where the session is not the newest, or the player is in the lobby
-- errors  CLOSED ... before the world is open; WRONGTYPE, PERDURE ... (a damaged record)

local function detach(keys, args)
  local base, raw, session = keys[1], args[1], args[2]
  check_open(base)
  local player = player_of(base, hex_of(raw))
  if not player or player.session ~= session or player.place == '-1' then return 0 end
  if player.gateway == '-1' then return 1 end
  check_presence(base)
  want('set', base .. KEY.GATEWAY_PLAYERS .. player.gateway)
  want('list', base .. KEY.INBOX .. player.place)

  local old_gateway = player.gateway
  player.gateway, player.slot = '-1', '-1'
  redis.call('HSET', base .. KEY.PLAYER .. player.hex, 'gateway', '-1', 'slot', '-1')
  redis.call('RPUSH', base .. KEY.INBOX .. player.place, entry_of(KIND.DETACH, raw, tonumber(session), 0, 0))
  show(base, player, player.place, old_gateway)
  announce(base, 'detach', player)
  return 1
end

redis.register_function('perdure_v1_detach', detach)
