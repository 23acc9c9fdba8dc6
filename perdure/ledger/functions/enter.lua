-- perdure_v1_enter: a login or a resume.
-- KEYS[1] base; ARGV player (8 raw bytes), name, gateway, slot, spawn zone, now in ms, resume hash issued, resume hash presented or ''
-- answer  {'OK', session, place, old gateway, old slot} | {'BAD_RESUME' | 'NAME_CLASH', detail}
-- errors  CLOSED ... before the world is open; PERDURE ... where the zone's inbox is full or a record damaged; WRONGTYPE

local function enter(keys, args)
  local base, raw, name, gateway, slot = keys[1], args[1], args[2], args[3], args[4]
  check_open(base)
  local hex = hex_of(raw)
  local player = player_of(base, hex)
  if player and player.name ~= '' and player.name ~= name then return { 'NAME_CLASH', player.name .. ' has the same key as ' .. name } end
  if args[8] ~= '' then
    -- A record without a token (put back by a reseed, put out, logged out) is nobody's to resume: only a login names its player.
    if not player or player.resume ~= args[8] then return { 'BAD_RESUME', 'the resume token was used before, or never given' } end
    if player.place == '-1' and tonumber(args[6]) - tonumber(player.since) > LIMIT.RESUME_MS then
      return { 'BAD_RESUME', 'the resume token is too old' }
    end
  end
  player = player or { hex = hex, name = name, session = '0', place = '-1', gateway = '-1', slot = '-1', since = '0', home = '-1', moves = '0', seq = '0' }
  local old_place, old_gateway, old_slot = player.place, player.gateway, player.slot
  local joins = old_place == '-1'
  local place = joins and (player.home ~= '-1' and player.home or args[5]) or old_place
  local row, inbox_key = base .. KEY.PLAYER .. hex, base .. KEY.INBOX .. place
  if redis.call('LLEN', inbox_key) >= LIMIT.INBOX then
    refuse('the inbox of zone ' .. place .. ' is full (' .. digits(LIMIT.INBOX) .. ' entries): nobody runs the zone')
  end
  check_presence(base)
  want('set', base .. KEY.ZONE_PLAYERS .. place, base .. KEY.GATEWAY_PLAYERS .. gateway)
  if old_gateway ~= '-1' then want('set', base .. KEY.GATEWAY_PLAYERS .. old_gateway) end
  player.name = name
  local generation = math.min(control(base, 'generation', 1), LIMIT.MOST_GENERATIONS)
  local session = math.max(tonumber(player.session), (generation - 1) * LIMIT.SESSIONS_A_GENERATION) + 1
  local moves = tonumber(player.moves)
  if joins then moves = math.max(moves, (generation - 1) * LIMIT.MOVES_A_GENERATION) + 1 end
  local saved = joins and redis.call('HGET', row, 'saved') or ''
  -- Who comes in from the lobby numbers commands on from the last one that was applied: one that is sent again is not applied again.
  local entry = entry_of(joins and KIND.JOIN or KIND.ATTACH, raw, session, tonumber(gateway), tonumber(slot), saved,
    joins and moves or 0, joins and tonumber(player.seq) or 0)

  player.session, player.place, player.gateway, player.slot = digits(session), place, gateway, slot
  if joins then player.since = args[6] end
  redis.call('HSET', row, 'name', name, 'session', player.session, 'place', place, 'gateway', gateway, 'slot', slot,
    'since', player.since, 'home', player.home, 'resume', args[7], 'moves', digits(moves))
  redis.call('RPUSH', inbox_key, entry)
  show(base, player, old_place, old_gateway)
  announce(base, joins and 'enter' or 'attach', player)
  if old_gateway ~= '-1' then redis.call('PUBLISH', base .. CHANNEL.GATEWAY .. old_gateway, old_slot) end
  return { 'OK', player.session, place, old_gateway, old_slot }
end

redis.register_function('perdure_v1_enter', enter)
