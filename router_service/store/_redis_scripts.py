"""What the Redis store does in one step: Lua scripts, each atomic on the server, by the server's clock."""

from __future__ import annotations

import hashlib

from router_service.store.base import CLAIMS_SHRINK_BY

__all__ = ["JOB_KEYS", "NO_JOB", "SCRIPTS", "digest_of"]

JOB_KEYS = (
    "meta",
    "lines",
    "numbers",
    "free",
    "leases",
    "holders",
    "attempts",
    "entries",
    "finished",
    "usages",
    "memo",
)
"""The keys of a job, as every script gets them, in this order, before the key of all jobs.

meta: hash of the job's fields and counters. lines: hash number -> payload; numbers: their order. free: lines to be
had, in the order of claiming. leases: lines under a lease, by its end in ms. holders, attempts: hashes by number.
entries: hash number -> JSON; finished: their order. usages: hash number -> completions, prompt tokens, completion
tokens, cost, and whether the line failed and may be tried again, as words of a text.
memo: hash key -> completion.
"""

NO_JOB = "NOJOB"
"""How a script says that the job is not there."""

_PAGE = """
local found = {}
for _, number in ipairs(redis.call('ZRANGEBYSCORE', ORDER, '(' .. ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])) do
  found[#found + 1] = number
  found[#found + 1] = redis.call('HGET', VALUES, number)
end
return found
"""
"""A piece of a hash in order. ARGV: after which number, how many."""

_PRELUDE = """
local meta, lines, numbers, free = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local leases, holders, attempts = KEYS[5], KEYS[6], KEYS[7]
local entries, finished, usages, memo, jobs = KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local STEP = 1099511627776
local function micros()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
local function millis() return math.floor(micros() / 1000) end
local function whole(x) return string.format('%.0f', x) end
local function place(tries, number) return whole(tries * STEP + number) end
local function held_by(worker)
  local found, all = {}, redis.call('HGETALL', holders)
  for i = 1, #all, 2 do
    if all[i + 1] == worker then found[#found + 1] = all[i] end
  end
  return found
end
local function count(text, sign)
  local parts = {}
  for part in string.gmatch(text, '%S+') do parts[#parts + 1] = part end
  for i, name in ipairs({'completions', 'prompt_tokens', 'completion_tokens'}) do
    redis.call('HINCRBY', meta, name, sign * tonumber(parts[i]))
  end
  if parts[4] == 'None' then
    redis.call('HINCRBY', meta, 'unpriced', sign)
  elseif sign > 0 then
    redis.call('HINCRBYFLOAT', meta, 'cost_usd', parts[4])
  else
    redis.call('HINCRBYFLOAT', meta, 'cost_usd', '-' .. parts[4])
  end
  redis.call('HINCRBY', meta, 'failed', sign * tonumber(parts[5]))
  redis.call('HINCRBY', meta, 'retryable', sign * tonumber(parts[6]))
  return parts[5] == '1', parts[6] == '1'
end
"""

_REQUIRES_JOB = f"if redis.call('EXISTS', meta) == 0 then return redis.error_reply('{NO_JOB} not there') end\n"

_BODIES = {
    # ARGV: id, header, metadata, state, format; then the staged keys' names, in the order of JOB_KEYS without meta
    "create": """
local is_new = redis.call('EXISTS', meta) == 0
for i = 2, 11 do
  local staged = KEYS[i + 11]
  if is_new and redis.call('EXISTS', staged) == 1 then
    redis.call('RENAME', staged, KEYS[i])
    redis.call('PERSIST', KEYS[i])
  else
    redis.call('DEL', staged)
  end
end
if not is_new then return 0 end
local now = micros()
redis.call('HSET', meta, 'id', ARGV[1], 'header', ARGV[2], 'metadata', ARGV[3], 'state', ARGV[4],
  'created', whole(now), 'ended', '', 'reclaimed', 0, 'n_lines', redis.call('ZCARD', numbers))
local all = redis.call('HVALS', usages)
for _, text in ipairs(all) do count(text, 1) end
redis.call('ZADD', jobs, whole(now), ARGV[1])
return 1
""",
    # ARGV: state, '1' where it is an end, '1' where all lines must be finished, then the states to leave alone
    "set_state": """
local state = redis.call('HGET', meta, 'state')
if ARGV[3] == '1' and redis.call('ZCARD', free) + redis.call('ZCARD', leases) > 0 then return 0 end
for i = 4, #ARGV do
  if ARGV[i] == state then return 0 end
end
redis.call('HSET', meta, 'state', ARGV[1], 'ended', ARGV[2] == '1' and whole(micros()) or '')
return 1
""",
    # ARGV: worker, limit, lease in ms, state in which lines are handed out
    "claim": f"""
if redis.call('HGET', meta, 'state') ~= ARGV[4] then return {{}} end
local now = millis()
for _, number in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now)) do
  redis.call('ZREM', leases, number)
  redis.call('ZADD', free, place(redis.call('HGET', attempts, number), number), number)
end
local first = redis.call('ZRANGE', free, 0, 0, 'WITHSCORES')
if #first == 0 then return {{}} end
local tries = math.floor(tonumber(first[2]) / STEP)
local limit = math.max(1, math.floor(tonumber(ARGV[2]) / {CLAIMS_SHRINK_BY} ^ tries))
local found = redis.call('ZRANGEBYSCORE', free, place(tries, 0), place(tries + 1, -1), 'LIMIT', 0, limit)
local claimed = {{tries + 1}}
for _, number in ipairs(found) do
  if redis.call('HEXISTS', holders, number) == 1 then redis.call('HINCRBY', meta, 'reclaimed', 1) end
  redis.call('ZREM', free, number)
  redis.call('ZADD', leases, now + ARGV[3], number)
  redis.call('HSET', holders, number, ARGV[1])
  redis.call('HSET', attempts, number, tries + 1)
  claimed[#claimed + 1] = number
  claimed[#claimed + 1] = redis.call('HGET', lines, number)
end
return claimed
""",
    # ARGV: worker, lease in ms
    "renew": """
local held, until_ms = held_by(ARGV[1]), millis() + ARGV[2]
for _, number in ipairs(held) do
  redis.call('ZREM', free, number)
  redis.call('ZADD', leases, until_ms, number)
end
return held
""",
    # ARGV: worker, '1' where it is dead
    "give_back": """
local held = held_by(ARGV[1])
for _, number in ipairs(held) do
  local tries = redis.call('HGET', attempts, number) - (ARGV[2] == '1' and 0 or 1)
  redis.call('HDEL', holders, number)
  redis.call('HSET', attempts, number, tries)
  redis.call('ZREM', leases, number)
  redis.call('ZADD', free, place(tries, number), number)
end
if ARGV[2] == '1' then redis.call('HINCRBY', meta, 'reclaimed', #held) end
return #held
""",
    "workers": """
local found, seen = {}, {}
for _, number in ipairs(redis.call('ZRANGEBYSCORE', leases, '(' .. millis(), '+inf')) do
  local worker = redis.call('HGET', holders, number)
  if worker and not seen[worker] then
    seen[worker] = true
    found[#found + 1] = worker
  end
end
return found
""",
    # ARGV: number, worker or '', entry, usage
    "finish": """
local number = ARGV[1]
if not (redis.call('ZSCORE', leases, number) or redis.call('ZSCORE', free, number)) then return 0 end
if ARGV[2] ~= '' and redis.call('HGET', holders, number) ~= ARGV[2] then return 0 end
redis.call('ZREM', leases, number)
redis.call('ZREM', free, number)
redis.call('HDEL', holders, number)
redis.call('HDEL', attempts, number)
redis.call('HSET', entries, number, ARGV[3])
redis.call('HSET', usages, number, ARGV[4])
redis.call('ZADD', finished, number, number)
count(ARGV[4], 1)
return 1
""",
    # ARGV: '1' where only what may have passed is taken back, state
    "reopen": """
local all, n_opened = redis.call('HGETALL', usages), 0
for i = 1, #all, 2 do
  local number, text = all[i], all[i + 1]
  local failed, retryable = string.match(text, '(%d) (%d)$')
  if failed == '1' and (retryable == '1' or ARGV[1] == '0') then
    count(text, -1)
    redis.call('HDEL', usages, number)
    redis.call('HDEL', entries, number)
    redis.call('ZREM', finished, number)
    redis.call('ZADD', free, place(0, number), number)
    n_opened = n_opened + 1
  end
end
redis.call('HSET', meta, 'state', ARGV[2], 'ended', '')
return n_opened
""",
    "progress": """
local counts = redis.call('HMGET', meta, 'n_lines', 'failed', 'retryable', 'reclaimed', 'completions', 'prompt_tokens',
  'completion_tokens', 'unpriced', 'cost_usd')
for i = 1, #counts do counts[i] = counts[i] or '0' end
return {redis.call('ZCARD', finished), redis.call('ZCOUNT', leases, '(' .. millis(), '+inf'), unpack(counts)}
""",
    "job": """
return redis.call('HMGET', meta, 'id', 'header', 'metadata', 'state', 'n_lines', 'created', 'ended')
""",
    "lines": _PAGE.replace("ORDER", "numbers").replace("VALUES", "lines"),
    "entries": _PAGE.replace("ORDER", "finished").replace("VALUES", "entries"),
    # ARGV: id
    "remove": """
for i = 1, 11 do redis.call('DEL', KEYS[i]) end
redis.call('ZREM', jobs, ARGV[1])
return 1
""",
    # ARGV: keys
    "recall": """
local found = {}
for i, key in ipairs(ARGV) do found[i] = redis.call('HGET', memo, key) end
return found
""",
    # ARGV: key, completion
    "keep": "return redis.call('HSETNX', memo, ARGV[1], ARGV[2])",
    "drop_memo": "return redis.call('DEL', memo)",
}
_NEEDS_NO_JOB = ("create", "remove")

SCRIPTS = {name: _PRELUDE + ("" if name in _NEEDS_NO_JOB else _REQUIRES_JOB) + body for name, body in _BODIES.items()}
"""Lua by name; each gets the keys of `JOB_KEYS` of a job and the key of all jobs."""


def digest_of(name: str) -> str:
    """The SHA-1 under which the server knows a script once it was loaded."""
    return hashlib.sha1(SCRIPTS[name].encode(), usedforsecurity=False).hexdigest()
