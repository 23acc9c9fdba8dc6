-- perdure_v1_waiting: which of some zones have something in their inbox.
-- KEYS[1] base; ARGV zones
-- answer  {zone, ...}: those with entries that no commit has taken yet
-- Asked ten times a second for all zones of a shard that sleep; with nothing there, which is nearly always, it is one command.

local function waiting(keys, args)
  local base, inboxes, found = keys[1], {}, {}
  for first = 1, #args, 4000 do
    local last = math.min(first + 3999, #args)
    for i = first, last do inboxes[i - first + 1] = base .. KEY.INBOX .. args[i] end
    if redis.call('EXISTS', unpack(inboxes, 1, last - first + 1)) > 0 then
      for i = first, last do
        if redis.call('EXISTS', inboxes[i - first + 1]) > 0 then found[#found + 1] = args[i] end
      end
    end
  end
  return found
end

redis.register_function({ function_name = 'perdure_v1_waiting', callback = waiting, flags = { 'no-writes' } })
