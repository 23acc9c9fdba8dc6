-- perdure_v1_chat: the lines of chat behind one that was read before.
-- KEYS[1] base; ARGV after (a line's id, or empty for none of those that there are), how many at most
-- answer  {id to read on from, {id, fields}, ...}

local function later(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)%-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)%-(%d+)$')
  if not a_ms or not b_ms then return false end
  return compare(a_ms, a_seq, b_ms, b_seq) > 0
end

local function chat(keys, args)
  local stream, after = keys[1] .. KEY.CHAT, args[1]
  local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  local last = newest and newest[1] or '0-0'
  if after == '' or not later(last, after) then return { last } end -- nothing new; or the server went back, and what it has is old
  local rows = redis.call('XRANGE', stream, '(' .. after, '+', 'COUNT', args[2])
  table.insert(rows, 1, rows[#rows][1])
  return rows
end

redis.register_function({ function_name = 'perdure_v1_chat', callback = chat, flags = { 'no-writes' } })
