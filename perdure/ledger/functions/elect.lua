-- perdure_v1_elect: take or keep the leadership.
-- KEYS[1] base; ARGV candidate, lease in ms
-- answer  {1 where it leads, term, leader}
-- errors  WRONGTYPE, PERDURE ... (a damaged term)

local function elect(keys, args)
  local base, candidate = keys[1], args[1]
  local leader = redis.call('GET', base .. KEY.LEADER)
  local term = control(base, 'term', 0)
  if leader and leader ~= candidate then return { 0, digits(term), leader } end
  if not leader then term = redis.call('HINCRBY', base .. KEY.CONTROL, 'term', 1) end
  redis.call('SET', base .. KEY.LEADER, candidate, 'PX', args[2])
  return { 1, digits(term), candidate }
end

redis.register_function('perdure_v1_elect', elect)
