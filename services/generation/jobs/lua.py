"""The steps of a job that Redis must do whole or not at all, in Lua. `store.JobStore` calls them; keys are its."""

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

# A finished job stays as it is: a call that was given up while it was on its way may arrive after the job's end.
FINISHED = """
local finished = {['"complete"'] = 1, ['"exhausted"'] = 1, ['"failed"'] = 1, ['"cancelled"'] = 1}
if finished[redis.call('HGET', KEYS[1], 'state') or ''] then return 0 end
"""

# KEYS: job, open jobs, plan, results, then what only an open job needs.
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

# KEYS: job, results.  ARGV: number of the first result, how many, the results, then fields and values of the job.
# The place of a result is its number: an owner that was thought dead finds the place taken.
RECORD = (
    FINISHED
    + """
local first, count = tonumber(ARGV[1]), tonumber(ARGV[2])
if redis.call('LLEN', KEYS[2]) ~= first then return 0 end
for i = 1, count do redis.call('RPUSH', KEYS[2], ARGV[2 + i]) end
redis.call('HSET', KEYS[1], unpack(ARGV, 3 + count))
return 1
"""
)
