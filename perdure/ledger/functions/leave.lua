-- perdure_v1_leave: log out, or put out. The session's resume token is worth nothing from here on.
-- KEYS[1] base; ARGV player (8 raw bytes), session, '1' for a kick (which may pass session -1 for any)
-- answer  1 | 0 where the session is not the newest, or the player is in the lobby
-- errors  CLOSED ... before the world is open; WRONGTYPE, PERDURE ... (a damaged record)

local function leave(keys, args)
  local base, raw, session, kick = keys[1], args[1], args[2], args[3] == '1'
  check_open(base)
  local player = player_of(base, hex_of(raw))
  if not player or player.place == '-1' then return 0 end
  if player.session ~= session and not (kick and session == '-1') then return 0 end
  local kind = kick and KIND.KICK or KIND.LEAVE
  want('list', base .. KEY.INBOX .. player.place)
  redis.call('HSET', base .. KEY.PLAYER .. player.hex, 'resume', '-') -- no hash; and unlike '', no gateway says it again
  redis.call('RPUSH', base .. KEY.INBOX .. player.place, entry_of(kind, raw, tonumber(player.session), 0, 0))
  return 1
end

redis.register_function('perdure_v1_leave', leave)
