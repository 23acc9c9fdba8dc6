-- perdure_v1_elect: take or keep the leadership, or see whether the leader goes on.
-- KEYS[1] base; ARGV candidate, the term in which it leads ('0': in none), the beat of a leader that it takes for lost ('-1': of none)
-- answer  {1 where it leads, term, leader, beat}
-- errors  WRONGTYPE, PERDURE ... (a damaged term or beat)
--
-- A leader's beat rises with each call by which it keeps the leadership. Who watches judges by a clock of its own whether it rises; the
-- clock of this server has no say. A coordinator of revision 1 calls with two arguments, candidate and lease in ms: its key gets a TTL.

local function elect(keys, args)
  local base, candidate, old = keys[1], args[1], #args == 2
  local leader = redis.call('GET', base .. KEY.LEADER)
  local term, beat = control(base, 'term', 0), control(base, 'beat', 0)
  if leader and leader ~= candidate and (old or digits(beat) ~= args[3]) then
    return { 0, digits(term), leader, not old and digits(beat) or nil }
  end
  -- Under the candidate's name an earlier process of it may lead: the new one leads in a term of its own.
  local keeps = leader == candidate and (old or digits(term) == args[2])
  -- First the key that only coordinators may write: for anybody else the call ends here, and nothing is written.
  if old then
    redis.call('SET', base .. KEY.LEADER, candidate, 'PX', args[2])
  else
    redis.call('SET', base .. KEY.LEADER, candidate)
  end
  if not keeps then term = redis.call('HINCRBY', base .. KEY.CONTROL, 'term', 1) end
  beat = redis.call('HINCRBY', base .. KEY.CONTROL, 'beat', 1)
  return { 1, digits(term), candidate, not old and digits(beat) or nil }
end

redis.register_function('perdure_v1_elect', elect)
