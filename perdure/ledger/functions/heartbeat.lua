-- perdure_v1_heartbeat: register a member or refresh it, and tell its orders.
-- KEYS[1] base; ARGV name, number, kind, address, state, packed record (see KEY.MEMBERS), "1" where it was accepted before, then the
--         numbers of the orders that it has: they are dropped
-- answer  {1, routes version, '<number> <order>', ...} | {0, routes version, detail}
-- errors  WRONGTYPE, PERDURE ... (a damaged record)

local function heartbeat(keys, args)
  local base, name, number = keys[1], args[1], args[2]
  local version = control(base, 'version', 0)
  if redis.call('ZSCORE', base .. KEY.EVICTED, number .. ' ' .. name) then
    return { 0, digits(version), name .. ' (' .. number .. ') was evicted or has left' }
  end
  local held = member_of(base, name)
  if held and held.number ~= number and args[7] == '1' and redis.call('HGET', base .. KEY.CONTROL, 'opened_for') ~= run_of() then
    held = nil -- of the two this server has the older: it went back
  end
  if held and held.number ~= number then
    local detail = name .. ' is held by number ' .. held.number .. ': wait until its lease is over, or take another name'
    return { 0, digits(version), detail }
  end
  local orders_key = base .. KEY.ORDERS .. name
  want('hash', base .. KEY.SUSPECTS)
  local orders, taken, left = redis.call('LRANGE', orders_key, 0, -1), {}, {}
  for i = 8, #args do taken[args[i]] = true end
  for _, order in ipairs(orders) do
    local number = string.match(order, '^(%d+) ')
    if held and number and not taken[number] then left[#left + 1] = order end
  end

  redis.call('HSET', base .. KEY.MEMBERS, name, args[6])
  if not held then redis.call('HDEL', base .. KEY.SUSPECTS, name) end
  if not held or held.kind ~= args[3] or held.address ~= args[4] or held.state ~= args[5] then version = raise_version(base) end
  if #left < #orders then
    redis.call('DEL', orders_key)
    if #left > 0 then redis.call('RPUSH', orders_key, unpack(left)) end
  end
  return { 1, digits(version), unpack(left) }
end

redis.register_function('perdure_v1_heartbeat', heartbeat)
