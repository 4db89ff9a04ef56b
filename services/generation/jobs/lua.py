"""The steps of a job that Redis must do whole or not at all, in Lua. `jobs.JobStore` calls them; keys are its."""

# KEYS: job, plan, open jobs, all jobs.  ARGV: plan, id, created, max open, then fields and values.
# One step, so that a repeated request (or a reply that was lost) finds the whole job or none. -1: too many are open.
CREATE = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if redis.call('SCARD', KEYS[3]) >= tonumber(ARGV[4]) then return -1 end
redis.call('SET', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 5))
redis.call('SADD', KEYS[3], ARGV[2])
redis.call('ZADD', KEYS[4], ARGV[3], ARGV[2])
return 1
"""

NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS: claims, drafts, records, next.  ARGV: total, count, window, lease in ms.
# First what somebody claimed and let lapse, then the units after the last that was ever claimed.
CLAIM = (
    NOW
    + """
local recorded = redis.call('LLEN', KEYS[3])
local claimed = {}
local lapsed = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[2])
for _, unit in ipairs(lapsed) do
  if tonumber(unit) < recorded or redis.call('HEXISTS', KEYS[2], unit) == 1 then
    redis.call('ZREM', KEYS[1], unit)
  else
    claimed[#claimed + 1] = unit
  end
end
local next = math.max(tonumber(redis.call('GET', KEYS[4]) or 0), recorded)
local last = math.min(tonumber(ARGV[1]), recorded + tonumber(ARGV[3]))
while #claimed < tonumber(ARGV[2]) and next < last do
  claimed[#claimed + 1] = tostring(next)
  next = next + 1
end
redis.call('SET', KEYS[4], next)
for _, unit in ipairs(claimed) do redis.call('ZADD', KEYS[1], now + ARGV[4], unit) end
return claimed
"""
)

# KEYS: claims.  ARGV: lease in ms, then units.
RENEW = (
    NOW
    + """
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1], ARGV[i]) end
return #ARGV - 1
"""
)

# KEYS: lead.  ARGV: who, lease in ms.
LEAD = """
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# KEYS: claims, lead.  ARGV: who, then units.
RELEASE = """
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', 0, ARGV[i]) end
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1
"""

# A finished job stays as it is: a call that was given up while it was on its way may arrive after the job's end.
FINISHED = """
local finished = {['"complete"'] = 1, ['"exhausted"'] = 1, ['"failed"'] = 1, ['"cancelled"'] = 1}
if finished[redis.call('HGET', KEYS[1], 'state') or ''] then return 0 end
"""

# KEYS: job, open jobs, plan, records, then what only an open job needs.
# ARGV: id, seconds to keep it or 0 while it is open, then fields and values.
SAVE = (
    FINISHED
    + """
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
if ARGV[2] ~= '0' then
  redis.call('SREM', KEYS[2], ARGV[1])
  for i = 5, #KEYS do redis.call('DEL', KEYS[i]) end
  for _, i in ipairs({1, 3, 4}) do redis.call('EXPIRE', KEYS[i], ARGV[2]) end
end
return 1
"""
)

# KEYS: job, records, drafts.  ARGV: first unit, how many, their records, then fields and values of the job.
# The place of a record is its number: a leader that was thought dead finds the place taken.
RECORD = (
    FINISHED
    + """
local first, count = tonumber(ARGV[1]), tonumber(ARGV[2])
if redis.call('LLEN', KEYS[2]) ~= first then return 0 end
for i = 1, count do
  redis.call('RPUSH', KEYS[2], ARGV[2 + i])
  redis.call('HDEL', KEYS[3], tostring(first + i - 1))
end
redis.call('HSET', KEYS[1], unpack(ARGV, 3 + count))
return 1
"""
)

ALL = {
    "create": CREATE,
    "claim": CLAIM,
    "renew": RENEW,
    "lead": LEAD,
    "release": RELEASE,
    "save": SAVE,
    "record": RECORD,
}
