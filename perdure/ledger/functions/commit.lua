-- perdure_v1_commit: one tick of one zone.
-- KEYS[1] base of the world
-- ARGV    zone, expected head '<generation> <epoch> <tick - 1> <previous>', new head '<generation> <epoch> <tick> <digest>',
--         tick, digest, record, then for each transfer: target (-1 is the lobby), player (8 raw bytes, or empty), entry
-- answer  {'OK', page entry, ...} | {'FENCED' | 'GAP' | 'BROKEN', detail}
-- errors  WRONGTYPE, PERDURE ... (a damaged record); nothing is written then
-- Nothing after the XADD can fail: it checks the log's type and last id itself, all else was checked before.

-- Why the commit does not append: a resend, a newer owner, or a ledger that went back in time.
local function not_next(base, zone, expected, new, tick, digest)
  local generation, epoch, at, last, known = head_of(base, zone)
  if not known then return { 'GAP', 'the ledger does not know zone ' .. zone } end
  local my_generation, my_epoch = string.match(new, '^(%d+) (%d+) ')
  local order = compare(generation, epoch, my_generation, my_epoch)
  if order ~= 0 then
    local detail = 'zone ' .. zone .. ' is at generation ' .. generation .. ', epoch ' .. epoch .. ', not ' .. my_generation .. ', ' .. my_epoch
    if order > 0 and put_back_too_early(base, zone, my_generation, my_epoch) then
      return { 'GAP', detail .. '; an earlier owner has put it back' }
    end
    return { order > 0 and 'FENCED' or 'GAP', detail }
  end
  if at == tick and last == digest then
    local found = redis.call('XRANGE', base .. KEY.LOG .. zone, tick .. '-0', tick .. '-0')
    if found[1] then
      local fields, reply = found[1][2], { 'OK' }
      for i = 6, #fields, 2 do reply[#reply + 1] = fields[i] end
      return reply
    end
  end
  if tonumber(at) > tonumber(tick) or (at == tick and last ~= digest) then
    return { 'FENCED', 'zone ' .. zone .. ' stands at tick ' .. at .. ' (' .. last .. '): another process goes by the name of its owner' }
  end
  local before, previous = string.match(expected, '^%d+ %d+ (%-?%d+) (%x*)$')
  return { 'GAP', 'zone ' .. zone .. ' stands at tick ' .. at .. ' (' .. last .. '), not ' .. before .. ' (' .. previous .. ')' }
end

-- Split an inbox when `movers` leave: returns what stays, or nil where one of them has not even been taken in yet. What is
-- addressed to a mover follows it to its new zone, after its own entry; an ATTACH that waits for one who goes to the lobby
-- joins it anew. Without this, an ATTACH that came in during the tick of a border crossing would be lost.
local function follow_movers(inbox, movers)
  local kept = {}
  for _, entry in ipairs(inbox) do
    local kind = #entry >= LIMIT.ENTRY_HEADER and string.byte(entry, 1) or 0
    local mover = kind ~= 0 and movers[string.sub(entry, 9, 16)] or nil
    local stays = entry
    if kind == KIND.GATEWAY_LOST then
      local gateway = string.sub(entry, 17, 20)
      for raw, leaver in pairs(movers) do
        if leaver.target ~= '-1' and leaver.gateway_bytes == gateway then
          local session = struct.unpack('<I4', leaver.session_bytes)
          leaver.follow[#leaver.follow + 1] = entry_of(KIND.DETACH, raw, session, 0, 0)
        end
      end
    elseif mover then
      if kind == KIND.JOIN or kind == KIND.ARRIVE then return nil end
      if kind == KIND.ATTACH or kind == KIND.DETACH or kind == KIND.LEAVE or kind == KIND.KICK then
        if mover.target ~= '-1' then
          mover.follow[#mover.follow + 1] = entry
          stays = nil
          if kind == KIND.ATTACH then
            mover.session_bytes, mover.gateway_bytes = string.sub(entry, 5, 8), string.sub(entry, 17, 20)
          end
        elseif not mover.rejoined then
          stays = nil
          if kind == KIND.ATTACH then
            mover.rejoined = true
            stays = string.char(KIND.JOIN) .. string.sub(entry, 2, LIMIT.HOP_AT) .. struct.pack('<I4', mover.hop + 1)
              .. seq_bytes_of(mover.entry) .. string.sub(mover.entry, LIMIT.ENTRY_HEADER + 1)
          end
        end
      end
    end
    if stays then kept[#kept + 1] = stays end
  end
  return kept
end

-- Check the transfers (ARGV from 7 on). Returns movers by raw player key, or nil and what is broken.
local function plan(base, zone, args)
  local movers, any = {}, false
  for i = 7, #args, 3 do
    local target, raw, entry = args[i], args[i + 1], args[i + 2]
    if target ~= '-1' then redis.call('LLEN', base .. KEY.INBOX .. target) end
    if raw == '' then
      if target == '-1' then return nil, 'a transfer without a player cannot go to the lobby' end
    else
      local hex = hex_of(raw)
      local player, hop = player_of(base, hex), hop_of(entry)
      if not player or hop > tonumber(player.moves) then
        if not player or player.place ~= zone or movers[raw] then
          return nil, 'player ' .. hex .. ' is not in zone ' .. zone
        end
        any = true
        movers[raw] = {
          target = target, entry = entry, player = player, follow = {}, hop = hop,
          session_bytes = string.sub(entry, 5, 8), gateway_bytes = string.sub(entry, 17, 20),
        }
        if target ~= '-1' then redis.call('SCARD', base .. KEY.ZONE_PLAYERS .. target) end
        if player.gateway ~= '-1' then redis.call('SCARD', base .. KEY.GATEWAY_PLAYERS .. player.gateway) end
      end
    end
  end
  if any then
    redis.call('SCARD', base .. KEY.ZONE_PLAYERS .. zone)
    check_presence(base)
  end
  return movers, any
end

-- Move one player, after the log has its record.
local function move(base, zone, mover)
  local player, target = mover.player, mover.target
  local old_gateway, row = player.gateway, base .. KEY.PLAYER .. player.hex
  if target == '-1' then
    redis.call('HSET', row, 'saved', string.sub(mover.entry, LIMIT.ENTRY_HEADER + 1), 'seq', digits(seq_of(mover.entry)), 'home', zone,
      'moves', digits(mover.rejoined and mover.hop + 1 or mover.hop))
    if mover.rejoined then return end
    player.place, player.gateway, player.slot = '-1', '-1', '-1'
    redis.call('HSET', row, 'place', '-1', 'gateway', '-1', 'slot', '-1')
    show(base, player, zone, old_gateway)
    announce(base, 'leave', player)
    return
  end
  redis.call('RPUSH', base .. KEY.INBOX .. target, mover.entry)
  for _, entry in ipairs(mover.follow) do redis.call('RPUSH', base .. KEY.INBOX .. target, entry) end
  redis.call('HSET', row, 'moves', digits(mover.hop))
  if target == zone then return end
  player.place = target
  redis.call('HSET', row, 'place', target)
  show(base, player, zone, old_gateway)
  announce(base, 'move', player)
end

local function commit(keys, args)
  local base, zone, tick, digest = keys[1], args[1], args[4], args[5]
  local head_key, inbox_key = base .. KEY.HEAD .. zone, base .. KEY.INBOX .. zone
  if redis.call('GET', head_key) ~= args[2] then return not_next(base, zone, args[2], args[3], tick, digest) end
  local inbox = redis.call('LRANGE', inbox_key, 0, LIMIT.PAGE_ENTRIES - 1)
  local movers, rewritten = nil, false
  if #args > 6 then
    local any
    movers, any = plan(base, zone, args)
    if not movers then return { 'BROKEN', any } end
    if any and #inbox > 0 then
      if #inbox == LIMIT.PAGE_ENTRIES then inbox = redis.call('LRANGE', inbox_key, 0, -1) end
      inbox = follow_movers(inbox, movers)
      if not inbox then return { 'BROKEN', 'a player of a transfer is still in the inbox of zone ' .. zone } end
      rewritten = true
    end
  end

  local reply, record = { 'OK' }, { 'XADD', base .. KEY.LOG .. zone, tick .. '-0', 'd', digest, 'r', args[6] }
  local taken, bytes = 0, 0
  for i = 1, math.min(#inbox, LIMIT.PAGE_ENTRIES) do
    bytes = bytes + #inbox[i]
    if i > 1 and bytes > LIMIT.PAGE_BYTES then break end
    taken = i
    reply[i + 1] = inbox[i]
    record[#record + 1] = 'e'
    record[#record + 1] = inbox[i]
  end
  redis.call(unpack(record))
  redis.call('SET', head_key, args[3])
  if rewritten then
    redis.call('DEL', inbox_key)
    for i = taken + 1, #inbox, 1000 do redis.call('RPUSH', inbox_key, unpack(inbox, i, math.min(i + 999, #inbox))) end
  elseif taken > 0 then
    redis.call('LTRIM', inbox_key, taken, -1)
  end
  for i = 7, #args, 3 do
    if args[i + 1] == '' then
      redis.call('RPUSH', base .. KEY.INBOX .. args[i], args[i + 2])
    elseif movers[args[i + 1]] then
      move(base, zone, movers[args[i + 1]])
    end -- else it has happened already
  end
  return reply
end

redis.register_function('perdure_v1_commit', commit)
