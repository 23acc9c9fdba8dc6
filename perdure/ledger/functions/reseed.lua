-- perdure_v1_reseed: a live owner restores a zone that the ledger forgot.
-- KEYS[1] base
-- ARGV    zone, owner, generation, epoch, tick, digest, blob, blob digest, '<number of players> <generation whose
--         moves are above all that the zone remembers>' (a shard of an earlier build leaves that away), then for each player: key (8 raw bytes),
--         session, gateway, slot, hop; then for each transfer: tick, target (-1 is the lobby), player (8 raw bytes, or empty), entry
-- answer  as zone_head
-- errors  PERDURE ... where the ledger is ahead of the caller (or as far, by another process of its name), or a record is damaged; WRONGTYPE
-- Where several have run the zone, whoever ran it last holds: before the world is open, a later owner takes it from an earlier one that
-- came first (it had not heard that the zone was given away, and the ledger has forgotten it).
-- Of two statements about where a player is, the one with the higher number of moves holds.

local function blank(hex)
  return { hex = hex, name = '', session = '0', place = '-1', gateway = '-1', slot = '-1', since = '0', home = '-1', resume = '', moves = '0', seq = '0' }
end

local function players_of(args)
  local count, above = string.match(args[9], '^(%d+) ?(%d*)$')
  return tonumber(count), tonumber(above) or 1
end

-- What is said of players, in order; each as a table. Checks all keys that `restore` is about to write.
local function statements(base, zone, args, at)
  local said, players, last = {}, {}, 9 + 5 * (players_of(args))
  for i = 10, last, 5 do
    said[#said + 1] = {
      raw = args[i], session = args[i + 1], gateway = args[i + 2], slot = args[i + 3], hop = tonumber(args[i + 4]), place = zone,
    }
  end
  for i = last + 1, #args, 4 do
    if tonumber(args[i]) > at then
      local raw, entry = args[i + 2], args[i + 3]
      local one = { raw = raw, place = args[i + 1], entry = entry }
      if raw ~= '' then
        one.session, one.gateway = struct.unpack('<I4', string.sub(entry, 5, 8)), struct.unpack('<I4', string.sub(entry, 17, 20))
        one.slot, one.hop = struct.unpack('<I4', string.sub(entry, 21, 24)), hop_of(entry)
      end
      said[#said + 1] = one
    end
  end
  for _, one in ipairs(said) do
    if one.place ~= '-1' then want('list', base .. KEY.INBOX .. one.place) want('set', base .. KEY.ZONE_PLAYERS .. one.place) end
    if one.raw ~= '' then
      local hex = hex_of(one.raw)
      want('hash', base .. KEY.PLAYER .. hex)
      players[hex] = players[hex] or player_of(base, hex) or blank(hex)
      one.player = players[hex]
      for _, gateway in ipairs({ one.player.gateway, digits(tonumber(one.gateway)) }) do
        if gateway ~= '-1' then want('set', base .. KEY.GATEWAY_PLAYERS .. gateway) end
      end
      if one.player.place ~= '-1' then
        want('set', base .. KEY.ZONE_PLAYERS .. one.player.place)
        want('list', base .. KEY.INBOX .. one.player.place)
      end
    end
  end
  return said
end

-- What stays of an inbox without the arrivals of players that the zone has seen at that number or a later one.
local function without_known(inbox, args)
  local known, kept, last = {}, {}, 9 + 5 * (players_of(args))
  for i = last + 1, #args, 4 do
    if args[i + 2] ~= '' then known[args[i + 2]] = hop_of(args[i + 3]) end
  end
  for i = 10, last, 5 do known[args[i]] = math.max(known[args[i]] or -1, tonumber(args[i + 4])) end
  for _, entry in ipairs(inbox) do
    local kind = #entry >= LIMIT.ENTRY_HEADER and string.byte(entry, 1) or 0
    local carries = kind == KIND.JOIN or kind == KIND.ARRIVE
    if not (carries and hop_of(entry) <= (known[string.sub(entry, 9, 16)] or -1)) then kept[#kept + 1] = entry end
  end
  return kept
end

local function restore(base, zone, one)
  if one.raw == '' then
    redis.call('RPUSH', base .. KEY.INBOX .. one.place, one.entry)
    return
  end
  local player = one.player
  local moves, session, gateway = tonumber(player.moves), tonumber(one.session), tonumber(one.gateway)
  if not one.entry and (moves > one.hop or (moves == one.hop and player.place ~= '-1' and player.place ~= zone)) then
    -- As far, to another zone: two histories that came to the same number. The one that the record tells is lived in now.
    if player.place ~= zone then redis.call('RPUSH', base .. KEY.INBOX .. zone, entry_of(KIND.MOVED, one.raw, 0, 0, 0, '', moves)) end
    return
  end
  if one.entry and moves >= one.hop then return end
  local old_place, old_gateway, row = player.place, player.gateway, base .. KEY.PLAYER .. player.hex
  if one.entry and one.place ~= '-1' then redis.call('RPUSH', base .. KEY.INBOX .. one.place, one.entry) end
  local place, hop = one.place, one.hop
  if place == '-1' then
    local saved, seq = string.sub(one.entry, LIMIT.ENTRY_HEADER + 1), seq_of(one.entry)
    player.home = zone
    redis.call('HSET', row, 'saved', saved, 'seq', digits(seq))
    if tonumber(player.session) > session and player.gateway ~= '-1' then -- somebody has looked for the player here since
      place, hop = zone, hop + 1
      redis.call('RPUSH', base .. KEY.INBOX .. zone,
        entry_of(KIND.JOIN, one.raw, tonumber(player.session), tonumber(player.gateway), tonumber(player.slot), saved, hop, seq))
    else
      player.session = digits(math.max(tonumber(player.session), session))
      player.gateway, player.slot, player.resume = '-1', '-1', ''
    end
  elseif tonumber(player.session) < session then
    player.session, player.resume = digits(session), ''
    player.gateway = gateway > 0 and digits(gateway) or '-1'
    player.slot = gateway > 0 and digits(tonumber(one.slot)) or '-1'
  elseif tonumber(player.session) > session or (player.gateway == '-1' and gateway > 0) then
    local newest, inbox_key = tonumber(player.session), base .. KEY.INBOX .. one.place
    redis.call('RPUSH', inbox_key, entry_of(KIND.ATTACH, one.raw, newest, math.max(tonumber(player.gateway), 0), math.max(tonumber(player.slot), 0)))
    if player.gateway == '-1' then redis.call('RPUSH', inbox_key, entry_of(KIND.DETACH, one.raw, newest, 0, 0)) end
  elseif not one.entry and player.gateway ~= '-1' and gateway == 0 then
    player.gateway, player.slot = '-1', '-1'
  end
  if old_place ~= '-1' and old_place ~= one.place and old_place ~= zone then
    redis.call('RPUSH', base .. KEY.INBOX .. old_place, entry_of(KIND.MOVED, one.raw, 0, 0, 0, '', one.hop))
  end
  player.place, player.moves = place, digits(hop)
  redis.call('HSET', row, 'name', player.name, 'session', player.session, 'place', player.place, 'gateway', player.gateway,
    'slot', player.slot, 'since', player.since, 'home', player.home, 'resume', player.resume or '', 'moves', player.moves)
  show(base, player, old_place, old_gateway)
  announce(base, place == '-1' and 'leave' or 'restore', player)
end

local function reseed(keys, args)
  local base, zone, owner, generation, epoch, tick = keys[1], args[1], args[2], args[3], args[4], args[5]
  want('hash', base .. KEY.CONTROL)
  local has_generation, has_epoch, at, digest = head_of(base, zone)
  local order = compare(has_generation, has_epoch, generation, epoch)
  local by_generation, by_epoch, before, first_generation, first_epoch = put_back_by(base, zone)
  if put_back_too_early(base, zone, generation, epoch) then
    order = -1
  elseif order > 0 or (order == 0 and (tonumber(at) > tonumber(tick) or (at == tick and digest ~= args[6]))) then
    refuse('zone ' .. zone .. ' is at generation ' .. has_generation .. ', epoch ' .. has_epoch .. ', tick ' .. at
      .. ' in the ledger, ahead of ' .. generation .. ', ' .. epoch .. ', ' .. tick .. ': drop it and load it from there')
  end
  if by_generation and compare(by_generation, by_epoch, generation, epoch) < 0 then at = before end
  local blobs_key, log_key = base .. KEY.BLOBS .. zone, base .. KEY.LOG .. zone
  want('stream', log_key)
  want('set', blobs_key, base .. KEY.ZONE_PLAYERS .. zone)
  want('string', base .. KEY.CHECKPOINTS .. zone)
  want('hash', base .. KEY.OWNERS, base .. KEY.SUCCESSORS)
  want('list', base .. KEY.INBOX .. zone)
  check_presence(base)
  control(base, 'version', 0)
  local world_generation = control(base, 'generation', 1)
  local new_generation = digits(tonumber(generation) + 1)
  local new_epoch = digits(math.max(tonumber(has_epoch), tonumber(epoch)) + LIMIT.RESEED_STEP)
  local blob_key = base .. KEY.BLOB .. zone .. ':' .. tick .. ':' .. new_epoch
  want('string', blob_key)
  local _, above = players_of(args)
  local said = statements(base, zone, args, tonumber(at))

  for _, blob in ipairs(redis.call('SMEMBERS', blobs_key)) do redis.call('UNLINK', base .. KEY.BLOB .. zone .. ':' .. blob) end
  redis.call('DEL', blobs_key, log_key)
  redis.call('SET', blob_key, args[7])
  redis.call('SADD', blobs_key, tick .. ':' .. new_epoch)
  redis.call('SET', base .. KEY.CHECKPOINTS .. zone, tick .. ' ' .. new_epoch .. ' ' .. args[8])
  redis.call('SET', base .. KEY.HEAD .. zone, new_generation .. ' ' .. new_epoch .. ' ' .. tick .. ' ' .. args[6])
  redis.call('HSET', base .. KEY.OWNERS, zone, owner)
  redis.call('HDEL', base .. KEY.SUCCESSORS, zone, zone .. ':image')
  redis.call('HSET', base .. KEY.CONTROL, 'generation', digits(math.max(world_generation, tonumber(new_generation), above)),
    'restored:' .. zone, table.concat({ run_of(), generation, epoch, at, first_generation or new_generation, first_epoch or new_epoch }, ' '))
  local inbox_key = base .. KEY.INBOX .. zone
  local inbox = redis.call('LRANGE', inbox_key, 0, -1)
  local kept = without_known(inbox, args)
  if #kept < #inbox then
    redis.call('DEL', inbox_key)
    for i = 1, #kept, 1000 do redis.call('RPUSH', inbox_key, unpack(kept, i, math.min(i + 999, #kept))) end
  end
  for _, one in ipairs(said) do restore(base, zone, one) end
  raise_version(base)
  return {
    new_generation, new_epoch, tick, args[6], owner,
    tick .. ' ' .. new_epoch .. ' ' .. args[8], redis.call('LLEN', base .. KEY.INBOX .. zone),
  }
end

redis.register_function('perdure_v1_reseed', reseed)
