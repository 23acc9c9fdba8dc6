-- perdure_v1_set_draining: mark a member as one that gets no zones, or take the mark off.
-- KEYS[1] base; ARGV member, '1' | '0'
-- answer  1 | 0 where that is so already
-- errors  PERDURE ... where there is no such member; WRONGTYPE

local function set_draining(keys, args)
  local base, name = keys[1], args[1]
  if not member_of(base, name) then refuse('no member is called ' .. name .. ': see the view') end
  control(base, 'version', 0)
  local changed = redis.call(args[2] == '1' and 'SADD' or 'SREM', base .. KEY.DRAINING, name)
  if changed == 1 then raise_version(base) end
  return changed
end

redis.register_function('perdure_v1_set_draining', set_draining)
