"""A partition's checkpoint: its state and how far it had read, in one key, written under its lease.

Windows of trades are beside it, in a hash that is written by the same script (`mdp.processor.windows`).

MessagePack: `[schema, header, records]`; the records are those of `mdp.processor.engine_state`, a MessagePack
array of `[analyzer, record]`, compressed. Whoever has taken the partition over goes on from it.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mdp.cache import schemas
from mdp.cache.keys import Keys, partition_name
from mdp.cache.leases import Client
from mdp.processor import engine_state
from mdp.processor.engine import Engine
from mdp.processor.windows import Write
from mdp.queues.stream_reader import Cursor

#: Of what this module writes. It reads this and all older ones.
SCHEMA = schemas.CHECKPOINTS
_KEEP_SECONDS = 4 * 86_400  # as long as the values made of it: over a weekend with a holiday
_STEP_SECONDS = 0.003  # of the dump, before the loop is given back
_LEVEL = 1  # of zlib: 6 saves a tenth of the bytes for three times the time

_encode = msgspec.msgpack.Encoder().encode

# The newest epoch of the lease is in the same slot: a successor shuts us out by being there, whether it has
# written a checkpoint yet or not. SET comes first: without memory Redis refuses it before anything is done.
_WRITE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
if ARGV[4] == '1' then
  redis.call('DEL', KEYS[3])
end
local fields = 6 + tonumber(ARGV[5])
for at = 6, fields - 1 do
  redis.call('HDEL', KEYS[3], ARGV[at])
end
for at = fields, #ARGV, 2 do
  redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1])
end
redis.call('EXPIRE', KEYS[3], ARGV[3])
return 1
"""


class CheckpointError(Exception):
    """A checkpoint that cannot be used. One line for a person."""


class NewerCheckpoint(CheckpointError):
    """One of a newer version of this program, which is to be left to such a one."""


class Head(msgspec.Struct):
    """What a checkpoint says of itself."""

    epoch: int  # of the lease under which it was written
    saved_ms: int  # by the writer's wall clock; for people
    day: str  # trading day (ISO date); empty before the first event
    market_ms: float  # market clock; 0: unknown
    cursors: dict[str, Cursor]  # by queue: the last entries it contains
    processed: dict[str, int] = {}  # by queue: events, since the first life of the partition
    lost: dict[str, dict[str, int]] = {}  # by queue and reason: events that went by unread, likewise


class Checkpoint(msgspec.Struct):
    """One as it was read."""

    head: Head
    packed: bytes  # the records, compressed

    def hydrate(self, engine: Engine) -> None:
        """Take the state back into a new engine.

        Raises:
            CheckpointError: It is damaged; the engine may be half filled.
        """
        if not self.head.market_ms:
            return
        try:
            records = msgspec.msgpack.decode(zlib.decompress(self.packed), type=list[tuple[str, Any]])
        except (zlib.error, ValueError) as exc:
            raise CheckpointError(f"a damaged checkpoint: {str(exc)[:100]}") from None
        engine_state.hydrate(engine, self.head.market_ms, records)


class Dumped(msgspec.Struct):
    """The state of an engine at one moment, not compressed yet."""

    head: Head
    records: list[bytes]
    seconds: float  # of work


async def dump(
    engine: Engine,
    epoch: int,
    cursors: dict[str, Cursor],
    processed: Mapping[str, int],
    lost: Mapping[str, Mapping[str, int]],
) -> Dumped:
    """Dump an engine in steps of a few milliseconds. Nobody may change its state until this returns."""
    market = engine.market
    head = Head(
        epoch=epoch,
        saved_ms=time.time_ns() // 1_000_000,
        day="" if market.clock.day is None else market.clock.day.day.isoformat(),
        market_ms=market.clock.now_ms,
        cursors=cursors,
        processed=dict(processed),
        lost={queue: dict(reasons) for queue, reasons in lost.items()},
    )
    records: list[bytes] = []
    worked, began = 0.0, time.perf_counter()
    for one in engine_state.dump(engine):
        records.append(_encode(one))
        spent = time.perf_counter() - began
        if spent > _STEP_SECONDS:
            worked += spent
            await asyncio.sleep(0)
            began = time.perf_counter()
    return Dumped(head, records, worked + time.perf_counter() - began)


def pack(dumped: Dumped) -> bytes:
    """A checkpoint as it is in Redis. Takes tens of milliseconds: call it in a thread."""
    records = dumped.records
    array = b"\xdd" + len(records).to_bytes(4, "big") + b"".join(records)
    return _encode([SCHEMA, dumped.head, zlib.compress(array, _LEVEL)])


def unpack(data: bytes) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: It is of a newer version of this program, or damaged.
    """
    try:
        schema, head, packed = msgspec.msgpack.decode(data, type=tuple[int, msgspec.Raw, bytes])
        if schema > SCHEMA:
            raise NewerCheckpoint(
                f"a checkpoint of version {schema}; this process reads up to {SCHEMA}: upgrade it, too"
            )
        return Checkpoint(msgspec.msgpack.decode(head, type=Head), packed)
    except (ValueError, TypeError) as exc:
        raise CheckpointError(f"a damaged checkpoint: {str(exc)[:100]}") from None


class CheckpointStore:
    """Checkpoints in Redis.

    Args:
        client: Redis, where leases and streams are.
        keys: Names.
    """

    def __init__(self, client: Any, keys: Keys) -> None:
        self.client = client
        self.keys = keys
        self._scripts: Client = client

    async def load(self, partition: int) -> Checkpoint | None:
        """A partition's checkpoint; None where there is none.

        Raises:
            CheckpointError: It is of a newer version, or damaged.
            REDIS_ERRORS: It may be tried again.
        """
        data = await self.client.get(self.keys.checkpoint(partition))
        return None if data is None else unpack(data)

    async def windows(self, partition: int) -> dict[bytes, bytes]:
        """What belongs to the checkpoint of windows of trades. Nobody writes it once the lease is another's.

        Raises:
            REDIS_ERRORS: It may be tried again.
        """
        return dict(await self.client.hgetall(self.keys.windows(partition)))

    async def save(
        self,
        partition: int,
        epoch: int,
        data: bytes,
        write: Write | None = None,
        fields: Sequence[bytes | str] = (),
    ) -> bool:
        """Write one; returns whether it was. Not where the lease has a newer epoch, or none any more.

        Args:
            partition: Which.
            epoch: Of its lease.
            data: The checkpoint.
            write, fields: What belongs to it of windows of trades, and the same packed.

        Raises:
            REDIS_ERRORS: Whether it was written is not known.
        """
        keys = self.keys
        names = (keys.checkpoint(partition), keys.epoch(partition_name(partition)), keys.windows(partition))
        anew, gone = ("1", []) if write is None or write.anew else ("0", write.gone)
        args = [str(epoch), data, str(_KEEP_SECONDS), anew, str(len(gone)), *gone, *fields]
        return bool(await self._scripts.eval(_WRITE, 3, *names, *args))
