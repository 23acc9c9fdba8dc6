-- perdure_v1_order: queue an order that the answers to the member's heartbeats bring until it has it; each has a number of its own.
-- KEYS[1] base; ARGV member, order
-- answer  how many wait
-- errors  PERDURE ... where there is no such member or too many wait; WRONGTYPE

local function order(keys, args)
  local base, name = keys[1], args[1]
  if not member_of(base, name) then refuse('no member is called ' .. name .. ': see the view') end
  if redis.call('LLEN', base .. KEY.ORDERS .. name) >= LIMIT.ORDERS then
    refuse(LIMIT.ORDERS .. ' orders wait for ' .. name .. ' already: it does not beat')
  end
  want('list', base .. KEY.ORDERS .. name)
  control(base, 'orders_given', 0)
  local number = redis.call('HINCRBY', base .. KEY.CONTROL, 'orders_given', 1)
  return redis.call('RPUSH', base .. KEY.ORDERS .. name, digits(number) .. ' ' .. args[2])
end

redis.register_function('perdure_v1_order', order)
