"""Event feeds as a relay reads them: streams of Redis, whose last items are what clients resume from.

A lost connection costs nothing: reading goes on from the id that is known. Every replica has the same
`(epoch, seq)` for the same item, so that a client may go on at another one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

import msgspec
import structlog
from redis.asyncio import RedisCluster

from mdp.cache.base import Entry, Message
from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS, Link
from mdp.cache.relay_channels import glob
from mdp.cache.relay_versions import FeedVersions
from mdp.cache.relayed import RelayedMessage, Types
from mdp.cache.tasks import Part
from mdp.feeds import EVENT, FAMILIES, Family, resolve

log = structlog.get_logger(__name__)

#: Feeds that are followed always: a client may come with a place at any time.
FIXED = tuple(family for family in FAMILIES if family.kind == EVENT and family.max_items and not family.hole)

_HISTORY = 10_000  # items of a feed at least, as its stream keeps
_MAX_FEEDS = 5_000  # with a symbol or a name, followed at once
_COUNT = 1_000  # items of a stream in one answer
_BLOCK_MS = 250  # then what is followed is looked at again
_POLL_SECONDS = 0.1  # in a cluster, where one command does not read streams of several slots
_SEARCH_SECONDS = 5.0  # between two looks for new streams, while somebody wants all of a family

Item = tuple[bytes, dict[bytes, bytes]]  # id, fields


class EventCounters(msgspec.Struct):
    """Of one relay."""

    items: int = 0
    missed: int = 0  # items that were trimmed before they were read
    repeated: int = 0  # items of a place that had been read, or of a lower epoch
    malformed: int = 0
    newer: int = 0  # of a version that is not read here


class _Stream:
    """What is known of one feed."""

    def __init__(self, feed: str, family: Family, key: str) -> None:
        self.feed = feed
        self.family = family
        self.key = key
        self.id = b"0-0"  # of the last item read
        self.epoch = self.seq = 0
        self.history: deque[RelayedMessage] = deque(maxlen=max(family.max_items, _HISTORY))
        self.loaded = asyncio.Event()
        self.announce = False  # what the first reading finds happened after somebody subscribed
        self.users = 0  # subscriptions that name it, and one more where all of its family is wanted
        self.of_whole = False  # that one is among them
        self.broken = False  # something was lost before the last item


class EventStreams(Part):
    """See the module. For the event loop's thread.

    Args:
        client: Redis, or its cluster.
        keys: Names.
        link: Told how it went.
        deliver: Called with each item that came while it was followed.
        versions: Told of items that are of a newer version.
        types: Payloads to decode as structs.
        wall_ms: The wall clock, for items that are too old for their feed.

    Attributes:
        on_missed: Called with feed and family before an item that does not follow the one before, because
            some were trimmed unread or Redis began anew.
    """

    name = "relay-events"

    def __init__(
        self,
        client: Any,
        keys: Keys,
        link: Link,
        deliver: Callable[[Message], None],
        versions: FeedVersions,
        *,
        types: Types,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._client = client
        self._keys = keys
        self._link = link
        self._deliver = deliver
        self._versions = versions
        self._types = types
        self._wall_ms = wall_ms
        self.counters = EventCounters()
        self.on_missed: list[Callable[[str, Family], None]] = []
        self._streams: dict[str, _Stream] = {}  # feed -> what is followed
        self._whole: dict[str, Family] = {}  # family name -> one whose every feed is wanted
        self._found: set[str] = set()  # families whose streams were searched once
        self._searched_at = float("-inf")
        self._broken = False  # the last command failed: streams may not be what they were
        self._failures = 0
        for family in FIXED:
            self.follow(family.name, family)

    @property
    def loaded(self) -> bool:
        """Whether the history of every feed without a symbol is here."""
        return all(self._streams[family.name].loaded.is_set() for family in FIXED)

    def follow(self, feed: str, family: Family) -> None:
        """Read a feed from now on. Each call is undone by one of `leave`."""
        stream = self._streams.get(feed)
        if stream is None:
            stream = self._streams[feed] = _Stream(feed, family, self._keys.events(feed))
        stream.users += 1

    def leave(self, feed: str) -> None:
        """Somebody needs it no more."""
        stream = self._streams.get(feed)
        if stream is not None:
            stream.users -= 1
            if stream.users <= 0:
                del self._streams[feed]

    def follow_all(self, family: Family) -> None:
        """Read all feeds of a family, also those that begin later (noticed within 5 s)."""
        self._whole[family.name] = family
        self._searched_at = float("-inf")

    def leave_all(self, family: Family) -> None:
        """The end of that."""
        if self._whole.pop(family.name, None) is not None:
            self._found.discard(family.name)
            for stream in [s for s in self._streams.values() if s.family is family and s.of_whole]:
                stream.of_whole = False
                self.leave(stream.feed)

    def place(self, feed: str) -> tuple[int, int]:
        """`(epoch, seq)` of the last item; zeros where none is known."""
        stream = self._streams.get(feed)
        return (0, 0) if stream is None else (stream.epoch, stream.seq)

    def since(self, feed: str, epoch: int, seq: int) -> list[Message] | None:
        """See `Bus.since`."""
        stream = self._streams.get(feed)
        if stream is None or epoch != stream.epoch or seq > stream.seq or not stream.loaded.is_set():
            return None
        if seq == stream.seq:
            return []
        if not stream.history or stream.history[0].seq > seq + 1:
            return None
        # Without holes (`_take`): the last so many.
        return list(islice(stream.history, len(stream.history) - (stream.seq - seq), None))

    def history(self, feed: str) -> list[Message]:
        """All items of a followed feed that are known, oldest first."""
        stream = self._streams.get(feed)
        return [] if stream is None else list(stream.history)

    async def get(self, feed: str, family: Family, limit: int) -> Entry:
        """The list of a feed, newest first. To be called within a bound of time.

        Raises:
            REDIS_ERRORS: It is not followed and Redis does not answer.
        """
        most = min(limit or family.max_items, family.max_items)
        stream = self._streams.get(feed)
        if stream is None:
            items = await self._client.xrevrange(self._keys.events(feed), count=most)
            stream = _Stream(feed, family, "")
            self._fill(stream, items)
        else:
            await stream.loaded.wait()
        oldest = self._wall_ms() - int(family.ttl_seconds * 1000)
        newest_first = islice(reversed(stream.history), most)
        values = [message.value for message in newest_first if message.ts > oldest]
        return Entry(values, stream.epoch, stream.seq)

    # Reading.

    async def _run(self) -> None:
        while True:
            try:
                await self._step()
                self._broken = False
            except REDIS_ERRORS as error:
                self._broken = True
                self._link.bad(error)
                await self._link.pause()
            except Exception as error:  # a defect must not end the reading for good
                self._broken = True
                self._failures += 1
                if self._failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... time
                    log.error("relay_events_failed", failures=self._failures, exc_info=error)
                await self._link.pause()

    async def _step(self) -> None:
        """Begin with what is new, then read once what is followed."""
        loop = asyncio.get_running_loop()
        if self._broken:
            await self._look_again()
        if self._whole and loop.time() - self._searched_at >= _SEARCH_SECONDS:
            await self._search()
            self._searched_at = loop.time()
        for stream in [one for one in self._streams.values() if not one.loaded.is_set()]:
            await self._load(stream)
        ids = {stream.key: stream.id for stream in self._streams.values() if stream.loaded.is_set()}
        by_key = {stream.key: stream for stream in self._streams.values()}
        if isinstance(self._client, RedisCluster):
            await asyncio.sleep(_POLL_SECONDS)
            answers: list[Any] = []
            for key, last in ids.items():
                answers += await self._client.xread({key: last}, count=_COUNT) or []
        else:
            answers = await self._client.xread(ids, count=_COUNT, block=_BLOCK_MS) or []
        self._link.good()
        for key, items in answers:
            stream = by_key[key.decode()]
            if self._streams.get(stream.feed) is not stream:
                continue  # left meanwhile
            for number, fields in items:
                message = self._take(stream, number, fields)
                if message is None:
                    continue
                if stream.broken:
                    stream.broken = False
                    for missed in self.on_missed:
                        missed(stream.feed, stream.family)
                self._deliver(message)

    async def _load(self, stream: _Stream) -> None:
        """Read the history of a feed."""
        if stream.announce:  # it did not exist when its family was subscribed: all of it is news
            stream.loaded.set()
            return
        items = await self._client.xrevrange(stream.key, count=stream.history.maxlen)
        self._fill(stream, items)
        stream.loaded.set()

    def _fill(self, stream: _Stream, newest_first: list[Item]) -> None:
        for number, fields in reversed(newest_first):
            self._take(stream, number, fields)
        stream.broken = False  # nobody was told anything of it yet

    async def _look_again(self) -> None:
        """After an outage: a stream whose last id is lower than ours is another one, read from its start."""
        for stream in list(self._streams.values()):  # one may come or go while we wait
            if not stream.loaded.is_set() or stream.id == b"0-0":
                continue
            last = await self._client.xrevrange(stream.key, count=1)
            if not last or _order(last[0][0]) < _order(stream.id):
                stream.id = b"0-0"

    async def _search(self) -> None:
        """Find the streams of the families that somebody wants all of."""
        for family in list(self._whole.values()):
            first = family.name not in self._found
            wanted = glob(*self._keys.events(family.feed("\0")).split("\0"))
            search = self._client.scan_iter(match=wanted, count=2_000, _type="stream")
            found = [key.decode("utf-8", "replace") async for key in search]
            if family.name not in self._whole:
                continue  # left meanwhile
            before = len(self._keys.events("")) - 1
            for key in found:
                feed = key[before:-1]
                known = self._streams.get(feed)
                if known is not None and known.of_whole:
                    continue
                if resolve(feed) is None or (known is None and len(self._streams) >= _MAX_FEEDS):
                    continue
                self.follow(feed, family)
                stream = self._streams[feed]
                stream.of_whole = True
                stream.announce = stream.announce or (known is None and not first)
            self._found.add(family.name)

    def _take(self, stream: _Stream, number: bytes, fields: dict[bytes, bytes]) -> RelayedMessage | None:
        """Enter an item into the history; None where it is not news."""
        stream.id = number
        try:
            version = int(fields.get(b"v", 1))
            if version > self._versions.reads:  # left out: whoever goes on behind it is told of a hole
                self.counters.newer += 1
                self._versions.refuse(version)
                return None
            epoch, seq, ts, body = int(fields[b"e"]), int(fields[b"s"]), int(fields[b"t"]), fields[b"d"]
        except (KeyError, ValueError, TypeError):  # nothing of ours
            self.counters.malformed += 1
            return None
        if (epoch, seq) <= (stream.epoch, stream.seq):
            self.counters.repeated += 1
            return None
        if stream.seq and (epoch != stream.epoch or seq != stream.seq + 1):
            # What lies between is lost to us; nobody can be resumed over it.
            stream.broken = True
            if epoch == stream.epoch and stream.loaded.is_set():
                self.counters.missed += seq - stream.seq - 1
                log.warning("relay_events_missed", feed=stream.feed, events=seq - stream.seq - 1)
            stream.history.clear()
        stream.epoch, stream.seq = epoch, seq
        payload = self._types.get(stream.family.name)
        message = RelayedMessage(stream.feed, stream.family, epoch, seq, ts, body, payload=payload)
        stream.history.append(message)
        self.counters.items += 1
        return message


def _order(number: bytes) -> tuple[int, ...]:
    return tuple(int(part) for part in number.split(b"-"))
