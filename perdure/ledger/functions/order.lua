-- perdure_v1_order: queue an order that the member's next heartbeat takes.
-- KEYS[1] base; ARGV member, order
-- answer  how many wait
-- errors  PERDURE ... where there is no such member or too many wait; WRONGTYPE

local function order(keys, args)
  local base, name = keys[1], args[1]
  if not member_of(base, name) then refuse('no member is called ' .. name .. ': see the view') end
  if redis.call('LLEN', base .. KEY.ORDERS .. name) >= LIMIT.ORDERS then
    refuse(LIMIT.ORDERS .. ' orders wait for ' .. name .. ' already: it does not beat')
  end
  return redis.call('RPUSH', base .. KEY.ORDERS .. name, args[2])
end

redis.register_function('perdure_v1_order', order)
