"""What both ends of the streams of events need: ids, the end of a stream, how far back it reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from mdp.cache.keys import Keys
from mdp.events import AGGREGATES, QUOTES, TRADES
from mdp.queues.entry import EntryError, Header, unpack_header

#: Queues whose events expire by age; halts never do, nor what was not understood.
EXPIRING = frozenset({AGGREGATES, TRADES, QUOTES})
#: An id of a stream: ms since the epoch by Redis's clock, number.
EntryId = tuple[int, int]
START: EntryId = (0, 0)

_MARK_MS = 500


class PartitionsDiffer(Exception):
    """Another number of partitions is in use in this Redis. One line that says what to change."""


async def settle_partitions(client: Redis, keys: Keys, count: int) -> None:
    """Agree with everybody in this Redis on the number of partitions; the first one says it.

    Raises:
        PartitionsDiffer: Others use another number.
        REDIS_ERRORS: It could not be asked.
    """
    await client.set(keys.partitions, count, nx=True)
    found = await client.get(keys.partitions)
    if found is not None and int(found) != count:
        raise PartitionsDiffer(
            f"mdq.partitions is {count}, and this Redis has {int(found)}: "
            f"use that number, or delete {keys.partitions}"
        )


def parse_id(text: bytes | str) -> EntryId:
    """An id as Redis writes it."""
    ms, _, number = (text.decode() if isinstance(text, bytes) else text).partition("-")
    return int(ms), int(number or 0)


def format_id(entry_id: EntryId) -> str:
    """An id as Redis reads it."""
    return f"{entry_id[0]}-{entry_id[1]}"


class End(msgspec.Struct, frozen=True):
    """The last entry of a stream; START and no header where it is empty."""

    id: EntryId = START
    header: Header | None = None  # None also where the entry is none of ours


def end_of(answer: Any) -> End:
    """From the answer of `XREVRANGE key + - COUNT 1`."""
    if not answer:
        return End()
    entry_id, fields = answer[0]
    if not isinstance(fields, Mapping):  # within a pipeline of a cluster
        fields = dict(zip(fields[::2], fields[1::2], strict=False))
    try:
        return End(parse_id(entry_id), unpack_header(fields.get(b"h", b"")))
    except EntryError:
        return End(parse_id(entry_id))


class Stream:
    """What the writer knows of one stream: its end, and how far back so many events reach."""

    __slots__ = ("_marks", "key", "last_ms", "partition", "place", "queue", "total")

    def __init__(self, key: str, queue: str, partition: int) -> None:
        self.key, self.queue, self.partition = key, queue, partition
        self.place = self.total = self.last_ms = 0
        self._marks: list[tuple[int, int]] = []  # (ms of an id, total with its entry), one each half second

    def go_on(self, end: End) -> None:
        """Follow an end that another listener, or an earlier life of ours, left."""
        self.place = end.header.place if end.header else 0
        self.total = end.header.total if end.header else 0
        self._marks.clear()

    def least_ms(self, now_ms: int, keep_ms: int, max_events: int) -> int:
        """The time of the oldest entry to keep: by age, and lest there be more than so many events."""
        marks = self._marks
        least, old = now_ms - keep_ms, 0
        for ms, total in marks:
            if ms >= least and total >= self.total - max_events:
                break
            least, old = max(least, ms), old + 1
        if old:
            del marks[:old]
        if not marks or now_ms - marks[-1][0] >= _MARK_MS:
            marks.append((now_ms, self.total))
        return max(least, 0)


class Outgoing(msgspec.Struct):
    """One entry on its way."""

    stream: Stream
    epoch: int
    place: int
    count: int
    header: bytes
    events: bytes
    id: str = ""
    least_ms: int = 0


async def ends(client: Redis, streams: Sequence[Stream]) -> list[End]:
    """The last entry of each stream.

    Raises:
        REDIS_ERRORS: It could not be asked.
    """
    pipe = client.pipeline(transaction=False)
    for stream in streams:
        pipe.execute_command("XREVRANGE", stream.key, "+", "-", "COUNT", 1)
    return [end_of(answer) for answer in await pipe.execute()]


async def fates(client: Redis, entries: Sequence[Outgoing]) -> list[tuple[End, bool]]:
    """Of each entry that was sent the end of its stream, and whether the stream has (or had) the entry.

    Raises:
        REDIS_ERRORS: It could not be asked.
    """
    if not entries:
        return []
    pipe = client.pipeline(transaction=False)
    for entry in entries:
        pipe.execute_command("XREVRANGE", entry.stream.key, "+", "-", "COUNT", 1)
        pipe.execute_command("XRANGE", entry.stream.key, entry.id, entry.id)
    answers = [end_of(answer) for answer in await pipe.execute()]
    return [
        (last, _shows(last, entry) or _shows(found, entry))
        for entry, last, found in zip(entries, answers[::2], answers[1::2], strict=True)
    ]


def _shows(found: End, entry: Outgoing) -> bool:
    """Whether what a stream holds there is the entry, or one that we wrote behind it."""
    header = found.header
    return header is not None and header.epoch == entry.epoch and header.place >= entry.place
