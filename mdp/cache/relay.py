"""Bus and cache of a process that does not compute: what others publish in Redis (`docs/redis.md`).

Local subscriptions decide what is subscribed there. Messages keep the place their publisher gave them, so
that every replica says the same; one whose place is not above the last one's is dropped, and thus nothing
ever goes back, whoever still publishes under an old lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from redis.asyncio import RedisCluster

from mdp.cache.asking import Asker
from mdp.cache.base import Entry, Message
from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS, Link
from mdp.cache.relay_bus import RelayBus
from mdp.cache.relay_cache import RelayCache
from mdp.cache.relay_channels import Channels
from mdp.cache.relay_demand import Demand
from mdp.cache.relay_events import EventStreams
from mdp.cache.relay_index import SymbolIndex
from mdp.cache.relay_interest import Interests
from mdp.cache.relay_versions import FeedVersions
from mdp.cache.relayed import RelayedMessage, Types, decode, parse
from mdp.cache.tasks import begin, end
from mdp.feeds import FAMILIES, STATE, Family, Target, resolve
from mdp.stage import Health

log = structlog.get_logger(__name__)

_MAX_FEEDS = 300_000  # whose last message is kept; the oldest are forgotten
_MAX_NAMES = 100_000  # channels whose feed is remembered
_START_SECONDS = 2.0
_LOOK_SECONDS = 0.01
_MGET = 500  # keys of one command
_LEFT = 0  # the line of a last message that newer ones may have followed unheard; connections count from 1


class RelayCounters(msgspec.Struct):
    """Of one relay, in messages of the bus."""

    taken: int = 0
    repeated: int = 0  # of a place that had come, by a pattern besides a channel or after a reconnection
    outdated: int = 0  # of a lower epoch: a publisher that lost its lease
    malformed: int = 0
    newer: int = 0  # of a version that is not read here
    failures: int = 0  # of subscribers in this process
    undecoded: int = 0  # values in Redis that are no JSON
    lines: int = 0  # connections that were lost


class Relay:
    """A stage: bus and cache over Redis for the rest of a process.

    Args:
        client: Redis, where clients' data is. Commands go through it; subscriptions have a connection apart.
        keys: Names.
        owner: Id of this process.
        link: Told how commands went.
        types: By family name: types that payloads are decoded to; others become dicts and lists.
        wall_ms: The wall clock, for values that are too old.

    Attributes:
        bus: See `mdp.cache.base.Bus`.
        cache: See `mdp.cache.base.Cache`.
        counters: Of messages.
    """

    name = "relay"

    def __init__(
        self,
        client: Any,
        keys: Keys,
        owner: str,
        link: Link,
        *,
        types: Types | None = None,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.keys = keys
        self.counters = RelayCounters()
        self._client = client
        self._link = link
        self._types = types or {}
        self._wall_ms = wall_ms
        self._last: dict[str, RelayedMessage] = {}  # feed -> last message, while somebody subscribes to it
        self._feeds: dict[bytes, tuple[str, Family]] = {}  # channel -> what it carries
        self._repair: asyncio.Task[None] | None = None
        self.channels = Channels(
            client,
            link.sibling("channels"),  # may be refused where commands are not: each is told of once
            on_message=self._take,
            on_joined=self._joined,
            on_lost=self._lost,
        )
        self.interests = Interests(client, keys, owner, link)
        self.asker = Asker(client, keys, owner)
        self.index = SymbolIndex(client, keys, link)
        self.demand = Demand(self)
        self.bus = RelayBus(self)
        self.cache = RelayCache(self)
        self.versions = FeedVersions(client, keys)
        self.events = EventStreams(
            client, keys, link, self._deliver, self.versions, types=self._types, wall_ms=wall_ms
        )

    async def start(self) -> None:
        """Connect, and stay connected. Returns when clients can be served; without Redis after 2 s."""
        for family in FAMILIES:
            if family.kind == STATE and not family.hole:
                self.demand.keep(family)
        self.channels.start()
        self.events.start()
        self.interests.start()
        self.index.start()
        self.versions.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                while not self.health().ok:  # noqa: ASYNC110 - a state of several tasks, without an event
                    await asyncio.sleep(_LOOK_SECONDS)

    async def stop(self) -> None:
        """End. Safe to call twice, or before `start`."""
        await self.interests.stop()
        await self.asker.stop()
        await self.channels.stop()
        await self.events.stop()
        await self.index.stop()
        await self.versions.stop()
        repair, self._repair = self._repair, None
        await end(repair)

    def health(self) -> Health:
        """Whether clients can be served what happens now."""
        parts = (self.channels, self.events, self.interests, self.index, self.versions)
        if any(part.died for part in parts):
            return Health(False, "does not run")
        if not self.channels.up:
            return Health(False, "not subscribed: Redis is not connected")
        if not self.events.loaded:
            return Health(False, "event feeds are still being read")
        if not self.index.loaded:
            return Health(False, "keys are still being looked through")
        if newer := self.versions.newer:
            return Health(False, newer)
        return Health(True, f"relays {len(self.demand)} patterns")

    # What bus and cache ask.

    def place(self, feed: str) -> tuple[int, int]:
        """See `Bus.place`."""
        known = self._last.get(feed)
        return self.events.place(feed) if known is None else (known.epoch, known.seq)

    def current(self, feed: str) -> RelayedMessage | None:
        """The last message of a subscribed feed, where it is the newest that can be known and not too old.

        While Redis is gone, the last one that came. After that, too, for a symbol: its key may be older,
        and its owner sends the present value anew.
        """
        known = self._last.get(feed)
        if known is None or known.line == _LEFT:
            return None
        if known.line != self.channels.line and self.channels.up and known.family.hole != "symbol":
            return None
        too_old = self._wall_ms() - known.ts > known.family.ttl_seconds * 1000
        return None if too_old else known

    def newer(self, feed: str, entry: Entry | None) -> RelayedMessage | None:
        """The last message that came, even before a lost connection, where Redis holds an older value."""
        known = self._last.get(feed)
        if known is None or entry is None or (known.epoch, known.seq) < (entry.epoch, entry.seq):
            return None
        return known

    def heard(self, family: Family) -> list[str]:
        """Symbols whose messages came while somebody subscribed."""
        cut = slice(len(family.prefix), -len(family.suffix) or None)
        return [feed[cut] for feed, message in self._last.items() if message.family is family]

    def entry(self, body: bytes, epoch: int, seq: int, family: Family) -> Entry | None:
        """An entry of what Redis holds; None where that is no JSON."""
        try:
            return Entry(decode(body, self._types.get(family.name)), epoch, seq)
        except msgspec.DecodeError:
            self.counters.undecoded += 1
            return None

    async def read(self, feed: str, family: Family) -> Entry | None:
        """A value from Redis, with its place where it has one.

        Raises:
            REDIS_ERRORS: Redis does not answer.
            NewerFeeds: It is of a version that is not read here, or may be.
        """
        found = await self._read(feed, family)
        return None if found is None else self.entry(found[0], found[1], found[2], family)

    async def _read(self, feed: str, family: Family) -> tuple[bytes, int, int, int] | None:
        """JSON, epoch, seq and ts of a value; zeros where they are not known."""
        value = self.keys.value(feed)
        if family.hole == "symbol":
            self.versions.check()
            body = await self._client.get(value)
            return None if body is None else (body, 0, 0, 0)
        key, fields = self.keys.place(feed), ("epoch", "seq", "ts", "v")
        while True:
            # Both are written at once. No transaction: a Redis without memory refuses those.
            pipeline = self._client.pipeline(transaction=False)
            pipeline.hmget(key, *fields)
            pipeline.get(value)
            pipeline.hmget(key, *fields)
            before, body, after = await pipeline.execute()
            if before == after:
                break
        if body is None:
            return None
        epoch, seq, ts, version = (int(number or 0) for number in after)
        if version > self.versions.reads:
            self.versions.refuse(version)
            self.versions.check()
        return body, epoch, seq, ts

    async def read_all(self, family: Family, into: dict[str, bytes]) -> None:
        """Read the values of all symbols of a family, some hundred at a time.

        Raises:
            REDIS_ERRORS: Redis does not answer, or the connection was lost meanwhile.
            NewerFeeds: They may be of a version that is not read here.
        """
        self.versions.check()
        await self.index.refresh()
        symbols = list(self.index.symbols(family))
        clustered = isinstance(self._client, RedisCluster)
        mget = self._client.mget_nonatomic if clustered else self._client.mget
        for at in range(0, len(symbols), _MGET):
            some = symbols[at : at + _MGET]
            bodies = await mget([self.keys.value(family.feed(symbol)) for symbol in some])
            into.update((symbol, body) for symbol, body in zip(some, bodies, strict=True) if body is not None)
        await self.channels.barrier()

    def follow(self, target: Target) -> None:
        """Somebody subscribes to an event feed with a list, or to all of a family."""
        if target.symbol is None and target.family.hole:
            self.events.follow_all(target.family)
        else:
            self.events.follow(target.family.feed(target.symbol or ""), target.family)

    def leave(self, target: Target) -> None:
        """The end of that."""
        if target.symbol is None and target.family.hole:
            self.events.leave_all(target.family)
        else:
            self.events.leave(target.family.feed(target.symbol or ""))

    def forget(self, target: Target) -> None:
        """Nobody subscribes to a feed, or to all of a family, any more: messages may be missed from here.

        The last one of a feed without symbol is kept, as there are few: where Redis refuses writes, messages
        leave and the key stays as it was, and who comes back must not be told that older value.
        """
        family = target.family
        if target.symbol is not None or not family.hole:
            feed = family.feed(target.symbol or "")
            if not self.bus.covers(family, target.symbol or ""):
                if family.hole == "symbol":
                    self._last.pop(feed, None)
                elif feed in self._last:
                    self._last[feed].line = _LEFT
            return
        self.cache.drop(family)
        covers = self.bus.covers
        cut = slice(len(family.prefix), -len(family.suffix) or None)
        gone = [f for f, m in self._last.items() if m.family is family and not covers(family, f[cut])]
        for feed in gone:
            del self._last[feed]

    # What comes.

    def _take(self, channel: bytes, data: bytes) -> None:
        """A message of the bus: in the reader's step, like a publisher's."""
        known = self._feeds.get(channel)
        if known is None:
            known = self._resolve(channel)
            if known is None:
                return
        feed, family = known
        if family.hole and not self.bus.wants(feed, family):
            return  # left a moment ago
        try:
            epoch, seq, ts, body, version = parse(data)
        except ValueError:
            self.counters.malformed += 1
            return
        if version > self.versions.reads:
            self.counters.newer += 1
            self.versions.refuse(version)
            return
        last = self._last.get(feed)
        if last is not None and (epoch, seq) <= (last.epoch, last.seq):
            if epoch < last.epoch:
                self.counters.outdated += 1
            else:
                self.counters.repeated += 1
                last.line = self.channels.line  # the newest, as we hear again
            return
        self.counters.taken += 1
        self._hand_on(feed, family, epoch, seq, ts, body)

    def _hand_on(self, feed: str, family: Family, epoch: int, seq: int, ts: int, body: bytes) -> None:
        line, payload = self.channels.line, self._types.get(family.name)
        message = RelayedMessage(feed, family, epoch, seq, ts, body, line=line, payload=payload)
        last = self._last
        if feed not in last and len(last) >= _MAX_FEEDS:
            del last[next(iter(last))]
        last[feed] = message
        self._deliver(message)

    def _deliver(self, message: Message) -> None:
        """Hand a message on; what a subscriber raises must not cost the others the connection."""
        try:
            self.bus.deliver(message)
        except Exception as error:
            self.counters.failures += 1
            if self.counters.failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... time
                log.error("relay_sink_failed", feed=message.feed, exc_info=error)

    def _resolve(self, channel: bytes) -> tuple[str, Family] | None:
        try:
            feed = self.keys.feed_of_bus(channel.decode())
        except ValueError:
            self.counters.malformed += 1
            return None
        found = resolve(feed)
        if found is None or found[0].max_items:
            return None  # another kind of feed, whose name a pattern fits
        if len(self._feeds) >= _MAX_NAMES:
            self._feeds.clear()
        known = self._feeds[channel] = (feed, found[0])
        return known

    def _joined(self, name: str) -> None:
        self.demand.acknowledged(name)
        if self.channels.line > 1 and (self._repair is None or self._repair.done()):
            self._repair = begin(self._read_again(), "relay-repair")

    def _lost(self) -> None:
        self.counters.lines += 1
        if self._repair is not None:
            self._repair.cancel()  # the next connection begins anew
            self._repair = None

    async def _read_again(self) -> None:
        """After a lost connection: values that changed meanwhile are handed on as if they came now.

        Those with a place; owners of symbols are told the interest again and send what there is.
        """
        try:
            for family, symbol in self.demand.exact_states():
                feed = family.feed(symbol)
                if family.hole == "symbol" or self.current(feed) is not None:
                    continue
                await self.channels.join(self.demand.channels_of(family, symbol)[:1])
                found = await self._read(feed, family)
                if found is None or not found[1]:
                    continue
                body, epoch, seq, ts = found
                await self.channels.barrier()
                last = self._last.get(feed)
                if last is None or (last.epoch, last.seq) < (epoch, seq):
                    self._hand_on(feed, family, epoch, seq, ts, body)
        except REDIS_ERRORS as error:
            self._link.bad(error)  # lost again: the next connection's first acknowledgement brings us back
