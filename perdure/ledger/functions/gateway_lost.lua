-- perdure_v1_gateway_lost: tell every zone, and mark the gateway's players as unattached, a bounded number a call.
-- KEYS[1] base; ARGV term, gateway, '1' to tell the zones (first call of a series), most players to mark
-- answer  how many players are still to be marked
-- errors  PERDURE ... where the term is over, or the world not open; WRONGTYPE

local function gateway_lost(keys, args)
  local base, gateway = keys[1], args[2]
  check_decided(base, args[1])
  local zones = args[3] == '1' and redis.call('HKEYS', base .. KEY.OWNERS) or {}
  for _, zone in ipairs(zones) do want('list', base .. KEY.INBOX .. zone) end
  local set_key = base .. KEY.GATEWAY_PLAYERS .. gateway
  want('set', set_key)
  check_presence(base)
  local players = {}
  for _, hex in ipairs(redis.call('SRANDMEMBER', set_key, args[4])) do
    players[#players + 1] = player_of(base, hex) or { hex = hex }
  end

  local entry = entry_of(KIND.GATEWAY_LOST, NO_PLAYER, 0, tonumber(gateway), 0)
  for _, zone in ipairs(zones) do redis.call('RPUSH', base .. KEY.INBOX .. zone, entry) end
  for _, player in ipairs(players) do
    if player.gateway == gateway then
      player.gateway, player.slot = '-1', '-1'
      redis.call('HSET', base .. KEY.PLAYER .. player.hex, 'gateway', '-1', 'slot', '-1')
      show(base, player, player.place, gateway)
      announce(base, 'detach', player)
    else
      redis.call('SREM', set_key, player.hex)
    end
  end
  return redis.call('SCARD', set_key)
end

redis.register_function('perdure_v1_gateway_lost', gateway_lost)
