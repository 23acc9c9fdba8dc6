-- perdure_v1_view: all that the cluster steers by. No loop over fields: whole replies are passed on.
-- KEYS[1] base
-- answer  {version, term, generation, leader, {zone, owner, ...}, {head of each of those zones}, {zone, '<ready> <successor>', ...},
--          {member, packed record, ...}, {member, suspicions, ...}, {draining member, ...}, run id, 1 where the world is open}

local function view(keys)
  local base = keys[1]
  local row = redis.call('HMGET', base .. KEY.CONTROL, 'version', 'term', 'generation', 'opened_for')
  local owners, heads = redis.call('HGETALL', base .. KEY.OWNERS), {}
  for first = 1, #owners, 4000 do
    local names = {}
    for i = first, math.min(first + 3999, #owners), 2 do names[#names + 1] = base .. KEY.HEAD .. owners[i] end
    for _, head in ipairs(redis.call('MGET', unpack(names))) do heads[#heads + 1] = head or '0 0 0 ' end
  end
  local run = run_of()
  return {
    row[1] or '0', row[2] or '0', row[3] or '1', redis.call('GET', base .. KEY.LEADER) or '', owners, heads,
    redis.call('HGETALL', base .. KEY.SUCCESSORS), redis.call('HGETALL', base .. KEY.MEMBERS),
    redis.call('HGETALL', base .. KEY.SUSPECTS), redis.call('SMEMBERS', base .. KEY.DRAINING),
    run, row[4] == run and 1 or 0,
  }
end

redis.register_function({ function_name = 'perdure_v1_view', callback = view, flags = { 'no-writes' } })
