-- perdure_v1_open_world: let players come and go; whoever runs zones had time to say what this server forgot.
-- KEYS[1] base; ARGV term, least generation
-- answer  the world's generation
-- errors  PERDURE ... where the term is over; WRONGTYPE

local function open_world(keys, args)
  local base, least = keys[1], tonumber(args[2])
  check_term(base, args[1])
  local generation, run = control(base, 'generation', 1), run_of()
  local before = redis.call('HGET', base .. KEY.CONTROL, 'opened_for')
  if before == run then return digits(generation) end
  generation = digits(math.max(generation + (before and 1 or 0), least))
  redis.call('HSET', base .. KEY.CONTROL, 'opened_for', run, 'generation', generation)
  raise_version(base)
  return generation
end

redis.register_function('perdure_v1_open_world', open_world)
