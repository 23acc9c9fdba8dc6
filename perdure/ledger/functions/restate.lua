-- perdure_v1_restate: a gateway says which sessions it has, to a server that may have forgotten some of what it knew of them.
-- KEYS[1] base
-- ARGV    gateway, now in ms, number of sessions, then for each: player (8 raw bytes), session, slot, name, resume hash; then players
--         that are left alone (8 raw bytes each)
-- answer  {'1' where the record is of that session at this gateway, else '0', ...}, as many as sessions
-- errors  CLOSED ... before the world is open; PERDURE ... (a damaged record); WRONGTYPE

local function restate(keys, args)
  local base, gateway = keys[1], args[1]
  check_open(base)
  local last = 3 + 5 * tonumber(args[3])
  local set_key = base .. KEY.GATEWAY_PLAYERS .. gateway
  want('set', set_key)
  check_presence(base)
  local known, lacking, named, gone = {}, {}, {}, {}
  for i = 4, last, 5 do
    local hex = hex_of(args[i])
    local player = player_of(base, hex)
    local is_it = player and player.session == args[i + 1] and player.gateway == gateway and player.slot == args[i + 2]
    known[#known + 1], named[hex] = is_it and '1' or '0', true
    if is_it and (player.name == '' or player.resume == '' or player.since == '0') and (player.name == '' or player.name == args[i + 3]) then
      player.name, player.resume = args[i + 3], player.resume ~= '' and player.resume or args[i + 4]
      player.since = player.since ~= '0' and player.since or args[2]
      lacking[#lacking + 1] = player
    end
  end
  for i = last + 1, #args do named[hex_of(args[i])] = true end
  local there = redis.call('SMEMBERS', set_key)
  table.sort(there)
  for _, hex in ipairs(there) do
    local player = not named[hex] and player_of(base, hex)
    if player and player.gateway == gateway and player.place ~= '-1' then
      want('list', base .. KEY.INBOX .. player.place)
      gone[#gone + 1] = player
    end
  end

  for _, player in ipairs(lacking) do
    redis.call('HSET', base .. KEY.PLAYER .. player.hex, 'name', player.name, 'resume', player.resume, 'since', player.since)
    show(base, player, player.place, gateway)
    announce(base, 'restore', player)
  end
  for _, player in ipairs(gone) do
    player.gateway, player.slot = '-1', '-1'
    redis.call('HSET', base .. KEY.PLAYER .. player.hex, 'gateway', '-1', 'slot', '-1')
    redis.call('RPUSH', base .. KEY.INBOX .. player.place, entry_of(KIND.DETACH, raw_of(player.hex), tonumber(player.session), 0, 0))
    show(base, player, player.place, gateway)
    announce(base, 'detach', player)
  end
  return known
end

redis.register_function('perdure_v1_restate', restate)
