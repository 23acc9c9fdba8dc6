-- Shared by all functions of the library; goes in front of them, after the constants KEY, LIMIT, KIND and CHANNEL.
-- Rules: every check comes before the first write (an error midway keeps what was written). Player keys travel as 8 raw
-- bytes, little endian, or as 16 hex digits, never as Lua numbers, which are doubles. Ticks are compared as strings.

-- Stop with a definite no; nothing may have been written yet.
local function refuse(text)
  error({ err = 'PERDURE ' .. text })
end

-- Refuse where a key that is about to be written holds another type.
local function want(kind, ...)
  for _, key in ipairs({ ... }) do
    local found = redis.call('TYPE', key).ok
    if found ~= 'none' and found ~= kind then
      error({ err = 'WRONGTYPE ' .. key .. ' holds a ' .. found .. ', not a ' .. kind })
    end
  end
end

-- A number that this library wrote itself, or `default` where there is none.
local function number_of(text, default, what)
  if not text then return default end
  local number = string.match(text, '^%-?%d+$') and tonumber(text)
  if not number then refuse(what .. ' is not a number: ' .. text) end
  return number
end

local function digits(number)
  return string.format('%.0f', number)
end

local function control(base, field, default)
  return number_of(redis.call('HGET', base .. KEY.CONTROL, field), default, 'control ' .. field)
end

-- What tells this server, and this history of its data, from any other: the beginnings of its run id and of its replication id.
local function run_of()
  local told = redis.call('INFO', 'server', 'replication')
  local run, history = string.match(told, 'run_id:(%x+)') or '', string.match(told, 'master_replid:(%x+)') or ''
  return string.sub(run, 1, 16) .. '/' .. string.sub(history, 1, 16)
end

-- Stop where no coordinator has opened the world for this server (open_world.lua).
local function check_open(base)
  if redis.call('HGET', base .. KEY.CONTROL, 'opened_for') ~= run_of() then
    error({ err = "CLOSED the world is not open: a coordinator opens it a moment after the ledger's server began" })
  end
end

-- Check a coordinator's term, and that the version can be raised later.
local function check_term(base, term)
  local now = control(base, 'term', 0)
  if digits(now) ~= term then
    refuse('term ' .. term .. ' is over, it is ' .. digits(now) .. ' now: stand for election anew')
  end
  control(base, 'version', 0)
end

-- The same, of what is decided by who lives and runs what. While the world is closed it was decided by another server's view, or by this
-- one's before it went back.
local function check_decided(base, term)
  check_term(base, term)
  if redis.call('HGET', base .. KEY.CONTROL, 'opened_for') ~= run_of() then
    refuse('the world is not open: whoever runs zones has first to say how far they are')
  end
end

-- Raise the routes version and tell the subscribers. Its key was checked by `check_term` or `control`.
local function raise_version(base)
  local version = redis.call('HINCRBY', base .. KEY.CONTROL, 'version', 1)
  redis.call('PUBLISH', base .. CHANNEL.ROUTES, digits(version))
  return version
end

-- '<generation> <epoch> <tick> <digest>' as four strings, or '0', '0', '0', '' for a zone without a head.
local function head_of(base, zone)
  local head = redis.call('GET', base .. KEY.HEAD .. zone)
  if not head then return '0', '0', '0', '', false end
  local generation, epoch, tick, digest = string.match(head, '^(%d+) (%d+) (%d+) (%x*)$')
  if not generation then refuse('the head of zone ' .. zone .. ' is damaged: ' .. head) end
  return generation, epoch, tick, digest, true
end

-- -1, 0 or 1: (a, b) against (c, d), which are strings of digits.
local function compare(a, b, c, d)
  a, b, c, d = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
  if a ~= c then return a < c and -1 or 1 end
  if b ~= d then return b < d and -1 or 1 end
  return 0
end

-- Who has put a zone back for this run of the server, while the world is not open, as strings: generation, epoch, the tick that there was
-- before; and the (generation, epoch) that the first of them got. Whoever is below that ran the zone before the ledger forgot.
local function put_back_by(base, zone)
  local run, row = run_of(), redis.call('HMGET', base .. KEY.CONTROL, 'opened_for', 'restored:' .. zone)
  if not row[2] or row[1] == run then return nil end
  local for_run, generation, epoch, at, first_generation, first_epoch = string.match(row[2], '^(%S+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
  if for_run == run then return generation, epoch, at, first_generation, first_epoch end
end

-- Was the zone put back by an earlier owner than (generation, epoch), who had not heard that it was given away?
local function put_back_too_early(base, zone, generation, epoch)
  local by_generation, by_epoch, _, first_generation, first_epoch = put_back_by(base, zone)
  return by_generation and compare(by_generation, by_epoch, generation, epoch) < 0
    and compare(generation, epoch, first_generation, first_epoch) < 0
end

-- 8 raw bytes, little endian -> 16 hex digits.
local function hex_of(raw)
  local a, b, c, d, e, f, g, h = string.byte(raw, 1, 8)
  return string.format('%02x%02x%02x%02x%02x%02x%02x%02x', h, g, f, e, d, c, b, a)
end

-- The reverse.
local function raw_of(hex)
  local bytes = {}
  for i = 15, 1, -2 do bytes[#bytes + 1] = string.char(tonumber(string.sub(hex, i, i + 1), 16)) end
  return table.concat(bytes)
end

-- One inbox entry; the layout is ENTRY_STRUCT of perdure/wire/entries.py.
local function entry_of(kind, raw, session, gateway, slot, payload, hop, seq)
  return struct.pack('<BBI2I4', kind, 0, LIMIT.NO_ORIGIN, session) .. raw .. struct.pack('<I4I4I4I4', gateway, slot, hop or 0, seq or 0)
    .. (payload or '')
end

-- The number of the move that an entry brings about; 0 where it is too short to have one.
local function hop_of(entry)
  if #entry < LIMIT.HOP_AT + 4 then return 0 end
  return (struct.unpack('<I4', string.sub(entry, LIMIT.HOP_AT + 1, LIMIT.HOP_AT + 4)))
end

-- The number of the last command that was applied of the player whom an entry carries, as 4 raw bytes.
local function seq_bytes_of(entry)
  return string.sub(entry, LIMIT.HOP_AT + 5, LIMIT.ENTRY_HEADER)
end

-- The same as a number; 0 where the entry is too short to have one.
local function seq_of(entry)
  if #entry < LIMIT.ENTRY_HEADER then return 0 end
  return (struct.unpack('<I4', seq_bytes_of(entry)))
end

local NO_PLAYER = '\0\0\0\0\0\0\0\0'

-- The player's record as a table of strings, or nil.
local function player_of(base, hex)
  local row = redis.call('HMGET', base .. KEY.PLAYER .. hex,
    'name', 'session', 'place', 'gateway', 'slot', 'since', 'home', 'resume', 'moves', 'seq')
  if not row[1] then return nil end
  local player = {
    hex = hex, name = row[1], session = row[2], place = row[3], gateway = row[4], slot = row[5], since = row[6], home = row[7], resume = row[8],
    moves = row[9] or '0', seq = row[10] or '0',
  }
  for _, field in ipairs({ 'session', 'place', 'gateway', 'slot', 'since', 'home', 'moves', 'seq' }) do
    number_of(player[field] or 'nothing', 0, 'player ' .. hex .. ' ' .. field)
  end
  return player
end

-- Check the keys that hold presence for the world as a whole.
local function check_presence(base)
  want('hash', base .. KEY.ONLINE)
  want('stream', base .. KEY.PRESENCE_LOG)
end

-- Publish a presence change and put it on the capped log.
local function announce(base, change, player)
  local text = '{"change":"' .. change .. '","player":"' .. player.hex .. '","name":' .. cjson.encode(player.name)
    .. ',"place":' .. player.place .. ',"gateway":' .. player.gateway .. ',"slot":' .. player.slot
    .. ',"session":' .. player.session .. ',"since_ms":' .. player.since .. '}'
  redis.call('PUBLISH', base .. CHANNEL.PRESENCE, text)
  redis.call('XADD', base .. KEY.PRESENCE_LOG, 'MAXLEN', '=', LIMIT.PRESENCE_LOG, '*', 'c', text)
end

-- Bring the derived rows of who is online in line with `player`, whose place and gateway were the `old_` ones.
local function show(base, player, old_place, old_gateway)
  if old_place ~= player.place then
    if old_place ~= '-1' then redis.call('SREM', base .. KEY.ZONE_PLAYERS .. old_place, player.hex) end
    if player.place ~= '-1' then redis.call('SADD', base .. KEY.ZONE_PLAYERS .. player.place, player.hex) end
  end
  if old_gateway ~= player.gateway then
    if old_gateway ~= '-1' then redis.call('SREM', base .. KEY.GATEWAY_PLAYERS .. old_gateway, player.hex) end
    if player.gateway ~= '-1' then redis.call('SADD', base .. KEY.GATEWAY_PLAYERS .. player.gateway, player.hex) end
  end
  if player.place == '-1' then
    redis.call('HDEL', base .. KEY.ONLINE, player.hex)
  else
    local row = { player.place, player.gateway, player.slot, player.session, player.since, player.name }
    redis.call('HSET', base .. KEY.ONLINE, player.hex, table.concat(row, ' '))
  end
end

-- A member's record: kind, number, address, beat, state, info; strings all.
local function member_of(base, name)
  local packed = redis.call('HGET', base .. KEY.MEMBERS, name)
  if not packed then return nil end
  local good, row = pcall(cmsgpack.unpack, packed)
  if not good or type(row) ~= 'table' or #row ~= 6 then refuse('the record of member ' .. name .. ' is damaged') end
  return { kind = row[1], number = row[2], address = row[3], beat = row[4], state = row[5] }
end

-- Take a member's incarnation out; its later heartbeats are refused. Nothing happens where it is not registered.
local function remove_member(base, name, number)
  control(base, 'version', 0)
  want('hash', base .. KEY.MEMBERS, base .. KEY.SUSPECTS, base .. KEY.CONTROL)
  want('set', base .. KEY.DRAINING)
  want('zset', base .. KEY.EVICTED)
  local member = member_of(base, name)
  if not member or member.number ~= number then return 0 end
  redis.call('HDEL', base .. KEY.MEMBERS, name)
  redis.call('HDEL', base .. KEY.SUSPECTS, name)
  redis.call('SREM', base .. KEY.DRAINING, name)
  redis.call('DEL', base .. KEY.ORDERS .. name)
  local version = raise_version(base)
  redis.call('ZADD', base .. KEY.EVICTED, version, number .. ' ' .. name)
  redis.call('ZREMRANGEBYRANK', base .. KEY.EVICTED, 0, -LIMIT.EVICTED - 1)
  return 1
end
