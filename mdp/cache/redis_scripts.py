"""The scripts by which results are written to Redis under a lease (`docs/redis.md`).

Each compares the writer's epoch with the highest that wrote the same keys before, so that a process that
was frozen past its lease changes nothing (fencing). A write that Redis refuses (out of memory, read-only)
leaves the rest of a script's work done and is told, because messages to subscribers need no memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Protocol

from hiredis import pack_command
from redis.asyncio import RedisCluster
from redis.exceptions import NoScriptError


class Owner(Protocol):
    """Who writes."""

    name: str  # of the lease
    epoch: int


class Script:
    """A script that Redis keeps by its hash; sent again where Redis lost it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: Any, keys: list[str], args: list[Any]) -> Any:
        """Run it.

        Raises:
            RedisError, OSError: What the client raises.
        """
        try:
            if isinstance(client, RedisCluster):
                return await client.evalsha(self.sha, len(keys), *keys, *args)
            return await _execute(client, ("EVALSHA", self.sha, len(keys), *keys, *args))
        except NoScriptError:
            return await client.eval(self.text, len(keys), *keys, *args)


async def _execute(client: Any, command: tuple[Any, ...]) -> Any:
    """A command with hundreds of arguments, packed in C: the client packs each of them in Python."""
    pool = client.connection_pool
    connection = await pool.get_connection()
    try:
        # It closes itself where something goes wrong, so that no late answer is taken for another command's.
        await connection.send_packed_command([pack_command(command)], check_health=False)
        return await connection.read_response()
    finally:
        await pool.release(connection)


def owners(outputs: Iterable[Owner]) -> list[Any]:
    """The first arguments of every script that compares epochs."""
    names = [argument for output in outputs for argument in (output.name, output.epoch)]
    return [len(names) // 2, *names]


def text(value: Any) -> str:
    """What a script returned, as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


# `admit(key)` reads names and epochs of owners from ARGV[2] on (ARGV[1] says how many), compares them with
# those in the hash `key`, keeps the higher ones, and returns for each owner 'old' (refused), 'new' (unknown
# so far), 'newer' or 'same'; and the index of the next argument.
_ADMIT = """
local errors = {}
local function try(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then
    errors[#errors + 1] = reply.err
    return nil
  end
  return reply
end
local function admit(key)
  local count = tonumber(ARGV[1])
  local names, raised, answer = {}, {}, {}
  for i = 1, count do names[i] = ARGV[2 * i] end
  local known = redis.call('HMGET', key, unpack(names))
  for i = 1, count do
    local epoch, had = ARGV[2 * i + 1], known[i]
    if not had then
      answer[i] = 'new'
    elseif had == epoch then
      answer[i] = 'same'
    elseif tonumber(had) > tonumber(epoch) then
      answer[i] = 'old'
    else
      answer[i] = 'newer'
    end
    if answer[i] == 'new' or answer[i] == 'newer' then
      raised[#raised + 1] = names[i]
      raised[#raised + 1] = epoch
    end
  end
  if #raised > 0 then try('HSET', key, unpack(raised)) end
  return answer, 2 * count + 2
end
"""

#: Values of symbols and messages about them, of several owners.
#: KEYS: the fence. ARGV: owners; then for each owner the numbers of its values, deletions and messages, then
#: these: key, seconds, value; key; channel, message.
#: Returns [an answer of `admit` for each owner], [errors].
VALUES = Script(
    _ADMIT
    + """
local answer, at = admit(KEYS[1])
for i = 1, #answer do
  local values, deletions, messages = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  at = at + 3
  local till = at + 3 * values
  if answer[i] == 'old' then
    at = till + deletions + 2 * messages
  else
    while at < till do
      if #errors == 0 then try('SET', ARGV[at], ARGV[at + 2], 'EX', ARGV[at + 1]) end
      at = at + 3
    end
    for _ = 1, deletions do
      try('DEL', ARGV[at])
      at = at + 1
    end
    for _ = 1, messages do
      redis.call('PUBLISH', ARGV[at], ARGV[at + 1])
      at = at + 2
    end
  end
end
return {answer, errors}
"""
)

#: The same comparison alone, where a cluster keeps keys in other slots. KEYS: the fence. ARGV: owners.
ADMIT = Script(_ADMIT + "local answer = admit(KEYS[1]) return {answer, errors}")

#: A value of the whole market with its place. KEYS: place, value. ARGV: epoch, seq, ts (ms), seconds, JSON,
#: channel of the bus, plain channel or empty, version.
#: Returns ['old' or 'same' or 'new'], [errors]: 'new' where the place was not known.
WHOLE = Script(
    """
local errors = {}
local had = redis.call('HGET', KEYS[1], 'epoch')
if had and tonumber(had) > tonumber(ARGV[1]) then
  return {{'old'}, errors}
end
local function try(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then errors[#errors + 1] = reply.err end
end
try('SET', KEYS[2], ARGV[5], 'EX', ARGV[4])
if #errors == 0 then
  try('HSET', KEYS[1], 'epoch', ARGV[1], 'seq', ARGV[2], 'ts', ARGV[3], 'v', ARGV[8])
  try('EXPIRE', KEYS[1], ARGV[4])
end
local mark = ARGV[8] == '1' and '' or (' ' .. ARGV[8])
redis.call('PUBLISH', ARGV[6], ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3] .. mark .. '\\n' .. ARGV[5])
if ARGV[7] ~= '' then redis.call('PUBLISH', ARGV[7], ARGV[5]) end
return {{had and 'same' or 'new'}, errors}
"""
)

#: Items of one event feed, of several owners. KEYS: counter, stream, list. ARGV: owners; then for each owner
#: the number of its batch and of its items; then: items that the list keeps (0: no list), that the stream
#: keeps, seconds or empty (no expiry now), plain channel or empty, epoch and seq that the writer knew
#: last, version; then the items of each owner in order: ts (ms), JSON.
#: A batch that was appended already is not appended again: the writer may not have heard of it.
#: Returns [an answer of `admit` for each owner], [errors], epoch, last seq, [owners whose batches are in].
EVENTS = Script(
    _ADMIT
    + """
local answer, at = admit(KEYS[1])
local batches, counts, fields = {}, {}, {'e', 's'}
for i = 1, #answer do
  batches[i], counts[i] = ARGV[at], tonumber(ARGV[at + 1])
  fields[i + 2] = 'n:' .. ARGV[2 * i]
  at = at + 2
end
local keep_list, keep_stream, seconds, channel = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
local knew_epoch, knew_seq, version = ARGV[at + 4], tonumber(ARGV[at + 5]), ARGV[at + 6]
at = at + 7
local had = redis.call('HMGET', KEYS[1], unpack(fields))
local epoch, seq = had[1], tonumber(had[2] or '0')
if not epoch or (epoch == knew_epoch and seq < knew_seq) then
  local now = redis.call('TIME')
  local ms = string.format('%.0f', tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000))
  if epoch and tonumber(ms) <= tonumber(epoch) then ms = string.format('%.0f', tonumber(epoch) + 1) end
  epoch, seq = ms, 0
end
local new, notes, done = {}, {}, {}
for i = 1, #answer do
  local batch = ARGV[2 * i + 1] .. ':' .. batches[i]
  local from = at
  at = at + 2 * counts[i]
  if answer[i] ~= 'old' and had[i + 2] ~= batch then
    local whole = true
    for j = from, at - 2, 2 do
      local item = {'e', epoch, 's', string.format('%.0f', seq + 1), 't', ARGV[j], 'd', ARGV[j + 1]}
      if version ~= '1' then item[9], item[10] = 'v', version end
      if not try('XADD', KEYS[2], 'MAXLEN', '~', keep_stream, '*', unpack(item)) then
        whole = false
        break
      end
      seq = seq + 1
      new[#new + 1] = ARGV[j + 1]
    end
    if not whole then break end
    notes[#notes + 1] = fields[i + 2]
    notes[#notes + 1] = batch
  end
  if answer[i] ~= 'old' then done[#done + 1] = ARGV[2 * i] end
end
if #new > 0 then
  try('HSET', KEYS[1], 'e', epoch, 's', string.format('%.0f', seq), unpack(notes))
  if keep_list ~= '0' then
    for first = 1, #new, 1000 do
      try('LPUSH', KEYS[3], unpack(new, first, math.min(first + 999, #new)))
    end
    try('LTRIM', KEYS[3], 0, tonumber(keep_list) - 1)
  end
  if seconds ~= '' then
    try('EXPIRE', KEYS[3], seconds)
    try('EXPIRE', KEYS[2], seconds)
  end
  if channel ~= '' then
    for i = 1, #new do redis.call('PUBLISH', channel, new[i]) end
  end
end
return {answer, errors, epoch, string.format('%.0f', seq), done}
"""
)

#: Parts of one feed, of several owners. KEYS: fence, parts. ARGV: owners; then for each its field and part.
#: Returns [an answer of `admit` for each owner], [errors].
PARTS = Script(
    _ADMIT
    + """
local answer, at = admit(KEYS[1])
local fields = {}
for i = 1, #answer do
  if answer[i] ~= 'old' then
    fields[#fields + 1] = ARGV[at]
    fields[#fields + 1] = ARGV[at + 1]
  end
  at = at + 2
end
if #fields > 0 then
  try('HSET', KEYS[2], unpack(fields))
  try('EXPIRE', KEYS[2], '86400')
end
return {answer, errors}
"""
)
