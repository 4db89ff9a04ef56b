"""The stream of pairs and documents: the only place that knows Redis Streams.

Promise: a pair that `append` has accepted is delivered at least once to the trainer, whatever is killed. It is
*counted* exactly once: `append` may be repeated with the same owner (a lost reply, a restarted job), same answer.
So is a document that `append_documents` has accepted; it comes once for each time that it changed.
The backlog is bounded by refusing: XADD MAXLEN would drop unread pairs. Commands are those of Redis 7.0 and Valkey 8.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from shared.documents import Document, content_hash
from shared.pairs import PairRecord
from shared.redis import key

GROUP = "trainers"
DEDUPLICATION_S = 7 * 24 * 3600

# An entry of a document takes as much room as it has passages: `size` keeps what they are more than entries.
ROOM = """
local function room(limit)
  local entries = redis.call('XLEN', KEYS[1])
  if entries == 0 then redis.call('DEL', KEYS[2]) end
  return tonumber(limit) - entries - tonumber(redis.call('GET', KEYS[2]) or 0)
end
"""

# KEYS: stream, size, one key a pair that holds its owners: a line each, the owner, a tab and the score.
# ARGV: limit, ttl, traceparent or nothing, then owner, score and body a pair.
# An owner who comes again is answered as the first time, so retries are harmless even when the stream is full.
# Within a job, the first of two scores for a pair stays; another job's other score goes on to the trainer.
APPEND = (
    ROOM
    + """
local function job(owner) return string.match(owner, '^[^/]*') end
local room = room(ARGV[1])
local answers = {}
for i = 3, #KEYS do
  local owner, score, body = ARGV[3 * i - 5], ARGV[3 * i - 4], ARGV[3 * i - 3]
  local seen, answer, latest = redis.call('GET', KEYS[i]), nil, nil
  for line in string.gmatch(seen or '', '[^\\n]+') do
    local other, its_score = string.match(line, '^([^\\t]*)\\t?(.*)$')
    if other == owner then answer = 1 end
    if job(other) == job(owner) then answer = answer or 0 end
    latest = its_score
  end
  if answer == nil and (latest == score or latest == '') then answer = 0 end
  if answer == nil and room < 1 then answer = -1 end
  if answer == nil then
    redis.call('SET', KEYS[i], (seen and seen .. '\\n' or '') .. owner .. '\\t' .. score, 'EX', ARGV[2])
    local trace = ARGV[3] ~= '' and {'traceparent', ARGV[3]} or {}
    redis.call('XADD', KEYS[1], '*', 'v', '1', 'record', body, unpack(trace))
    room = room - 1
    answer = 1
  end
  answers[i - 2] = answer
end
return answers
"""
)

# KEYS: stream, size, one key a document that holds the digest of what came last under its id.
# ARGV: limit, ttl, traceparent or nothing, then digest, passages and body a document.
APPEND_DOCUMENTS = (
    ROOM
    + """
local room = room(ARGV[1])
local answers = {}
for i = 3, #KEYS do
  local digest, passages, body = ARGV[3 * i - 5], ARGV[3 * i - 4], ARGV[3 * i - 3]
  local answer = redis.call('GET', KEYS[i]) == digest and 0 or room < 1 and -1 or 1
  if answer == 1 then
    redis.call('SET', KEYS[i], digest, 'EX', ARGV[2])
    local trace = ARGV[3] ~= '' and {'traceparent', ARGV[3]} or {}
    redis.call('XADD', KEYS[1], '*', 'v', '1', 'document', body, 'passages', passages, unpack(trace))
    redis.call('INCRBY', KEYS[2], passages - 1)
    room = room - passages
  end
  answers[i - 2] = answer
end
return answers
"""
)

# KEYS: stream, size.  ARGV: group, then id and passages an entry. One that is gone has given its room back.
ACKNOWLEDGE = """
local more = 0
for i = 2, #ARGV, 2 do
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  more = more + redis.call('XDEL', KEYS[1], ARGV[i]) * (ARGV[i + 1] - 1)
end
if more > 0 then redis.call('DECRBY', KEYS[2], more) end
"""

# KEYS: stream, dead letters, tries, size.  ARGV: group, id, error, deliveries, passages.
# The entry moves in one step, and only once.
DEAD_LETTER = """
local entries = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])
if entries[1] then
  local fields = {'entry', ARGV[2], 'error', ARGV[3], 'deliveries', ARGV[4],
                  'fault', ARGV[3]}  -- # retired: remove in 0.3
  for _, value in ipairs(entries[1][2]) do table.insert(fields, value) end
  redis.call('XADD', KEYS[2], '*', unpack(fields))
end
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
local more = redis.call('XDEL', KEYS[1], ARGV[2]) * (ARGV[5] - 1)
if more > 0 then redis.call('DECRBY', KEYS[4], more) end
redis.call('HDEL', KEYS[3], ARGV[2])
return #entries
"""


class Append(IntEnum):
    """What became of one pair or document."""

    FULL = -1
    DUPLICATE = 0
    ACCEPTED = 1


@dataclass(frozen=True)
class Offer:
    """A pair offered to the stream. `owner` names the attempt that made it: the same owner may offer it again.

    It is written as `JOB/INDEX/SLOT`, without white space.
    """

    record: PairRecord
    owner: str


@dataclass(frozen=True)
class Delivery:
    """A pair or document on loan: it comes back until it is acknowledged. Neither is there if it is unreadable."""

    id: str
    record: PairRecord | None
    error: str | None = None
    deliveries: int = 1
    """How often it was delivered by now, this time included."""
    traceparent: str | None = None
    """Where the pair comes from, as W3C Trace Context writes it; None while traces are off."""
    document: Document | None = None
    passages: int = 1
    """How much room it takes in the stream."""

    @property
    def came(self) -> float:
        """When the entry came into the stream, in Unix time by Redis' clock; later entries of a millisecond later."""
        milliseconds, _, number = self.id.partition("-")
        return int(milliseconds) / 1000 + min(int(number or 0), 999) / 1e6


class PairStream:
    """One dataset's stream. `limit` bounds how many undelivered and unacknowledged pairs and passages it may hold."""

    def __init__(self, redis: Redis, dataset: str, limit: int = 100_000) -> None:
        self._redis, self._dataset, self.limit = redis, dataset, limit
        self.key, self.dead_key, self._tries_key = (key(dataset, name) for name in ("pairs", "dead", "tries"))
        self._size_key = key(dataset, "size")
        self._append, self._append_documents = redis.register_script(APPEND), redis.register_script(APPEND_DOCUMENTS)
        self._acknowledge = redis.register_script(ACKNOWLEDGE)
        self._dead_letter = redis.register_script(DEAD_LETTER)
        self._recover_after: str | None = "0"  # own pending entries first: a crash or a lost reply left them there
        self._group_exists = False

    async def append(self, offers: Sequence[Offer], traceparent: str | None = None) -> list[Append]:
        """Offer pairs; one answer a pair, in order. Safe to repeat after any error. `traceparent` goes with each."""
        if not offers:
            return []
        seen = (key(self._dataset, "seen", offer.record.pair.content_hash) for offer in offers)
        keys = [self.key, self._size_key, *seen]
        arguments: list[str | int] = [self.limit, DEDUPLICATION_S, traceparent or ""]
        for offer in offers:
            arguments += [offer.owner, repr(offer.record.pair.score), offer.record.model_dump_json()]
        return [Append(answer) for answer in await self._append(keys=keys, args=arguments)]

    async def append_documents(self, documents: Sequence[Document], traceparent: str | None = None) -> list[Append]:
        """Offer documents; one answer each, in order: a duplicate is what came last under its id, unchanged.

        Safe to repeat after any error. The last one that is accepted may have more passages than there was room.
        """
        if not documents:
            return []
        keys = [self.key, self._size_key, *(self._seen_document(document.id) for document in documents)]
        arguments: list[str | int] = [self.limit, DEDUPLICATION_S, traceparent or ""]
        for document in documents:
            arguments += [document.digest, len(document.passages), document.model_dump_json()]
        return [Append(answer) for answer in await self._append_documents(keys=keys, args=arguments)]

    async def forget_documents(self, ids: Sequence[str]) -> None:
        """Take documents of these ids as if they had never been offered: they were deleted. Safe to repeat."""
        if ids:
            await self._redis.unlink(*map(self._seen_document, ids))

    def _seen_document(self, id_: str) -> str:
        return key(self._dataset, "seen", "document", content_hash(id_))

    async def forget(self, hashes: Sequence[str]) -> None:
        """Take pairs of these content hashes as if they had never been offered: they were deleted. Safe to repeat."""
        if hashes:
            await self._redis.unlink(*(key(self._dataset, "seen", hash_) for hash_ in hashes))

    async def backlog(self) -> int:
        """How many pairs and passages wait for the trainer. What is acknowledged is deleted from the stream."""
        async with self._redis.pipeline(transaction=True) as transaction:
            transaction.xlen(self.key)
            transaction.get(self._size_key)
            entries, more = await transaction.execute()
        return int(entries) + (int(more or 0) if entries else 0)

    async def read(self, consumer: str, count: int = 256, block_ms: int = 1000) -> list[Delivery]:
        """The next pairs, waiting up to `block_ms` for the first; [] when none came.

        At start and after any error, what was delivered to `consumer` before and never acknowledged comes first.
        """
        try:
            await self._ensure_group()
            if self._recover_after is not None:
                pending = await self._read(consumer, self._recover_after, count, None)
                self._recover_after = pending[-1].id if pending else None
                if pending:
                    return await self._counted(consumer, pending)
            return await self._read(consumer, ">", count, block_ms)
        except (RedisError, OSError):
            self._recover_after, self._group_exists = "0", False
            raise

    def rewind(self) -> None:
        """Have the next read deliver again what could not be kept or acknowledged."""
        self._recover_after = "0"

    async def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """These are safe elsewhere: forget them. Safe to repeat."""
        if entries := [value for delivery in deliveries for value in (delivery.id, delivery.passages)]:
            await self._acknowledge(keys=[self.key, self._size_key], args=[GROUP, *entries])

    async def dead_letter(self, delivery: Delivery) -> None:
        """Move an entry that can't be kept, with its error, to the dead-letter stream. Safe to repeat."""
        keys = [self.key, self.dead_key, self._tries_key, self._size_key]
        error = delivery.error or "unknown"
        await self._dead_letter(keys=keys, args=[GROUP, delivery.id, error, delivery.deliveries, delivery.passages])

    async def count_try(self, delivery: Delivery) -> int:
        """Count, before it begins, an attempt to keep one entry alone; how many by now. `forget_try` takes it back.

        What remains are attempts that ended with the process; the delivery count also has those that never began.
        """
        return int(await self._redis.hincrby(self._tries_key, delivery.id, 1))

    async def forget_try(self, delivery: Delivery) -> None:
        """The attempt came to its end, well or not."""
        await self._redis.hdel(self._tries_key, delivery.id)

    async def count_dead_letters(self) -> int:
        """How many entries were put aside."""
        return int(await self._redis.xlen(self.dead_key))

    async def _ensure_group(self) -> None:
        if self._group_exists:
            return
        try:  # from "0": pairs written before the first trainer ever started must be delivered too
            await self._redis.xgroup_create(self.key, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self._group_exists = True

    async def _counted(self, consumer: str, pending: list[Delivery]) -> list[Delivery]:
        """`pending` with their delivery counts, which the read itself doesn't return."""
        entries: Any = await self._redis.xpending_range(
            self.key, GROUP, min=pending[0].id, max=pending[-1].id, count=len(pending), consumername=consumer
        )
        counts = {entry["message_id"]: int(entry["times_delivered"]) for entry in entries}
        return [replace(delivery, deliveries=counts.get(delivery.id, 1)) for delivery in pending]

    async def _read(self, consumer: str, after: str, count: int, block_ms: int | None) -> list[Delivery]:
        reply: Any = await self._redis.xreadgroup(GROUP, consumer, {self.key: after}, count=count, block=block_ms)
        return [_delivery(id_, fields) for entries in reply.values() for id_, fields in entries]


def _delivery(id_: str, fields: dict[str, str] | None) -> Delivery:
    fields = fields or {}
    passages = int(fields["passages"]) if fields.get("passages", "").isdecimal() else 1
    delivery = Delivery(id_, None, traceparent=fields.get("traceparent"), passages=passages)
    try:
        if "document" in fields:
            return replace(delivery, document=Document.model_validate_json(fields["document"]))
        if "record" in fields:
            return replace(delivery, record=PairRecord.model_validate_json(fields["record"]))
        return replace(delivery, error="the entry has no field 'record'")
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return replace(delivery, error=f"{where}: {first['msg']}" if where else first["msg"])
