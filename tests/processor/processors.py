"""Processors around a real Redis, in the test's own process, and a listener's end of the streams."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from mdp.analyzers.base import Analyzer
from mdp.analyzers.daily_range import DailyRange
from mdp.analyzers.enriched_quote import EnrichedQuote
from mdp.analyzers.halts import Halts
from mdp.analyzers.leaderboards import Leaderboards
from mdp.analyzers.raw_feeds import RawFeeds
from mdp.analyzers.state import Market
from mdp.analyzers.top_trades import TopTrades
from mdp.analyzers.trade_stats import TradeStats
from mdp.cache.control import Control
from mdp.cache.keys import Keys
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.cache.redis_interest import InterestWatch
from mdp.cache.redis_link import Link, connect
from mdp.cache.redis_writer import RedisWriter
from mdp.cache.tasks import end
from mdp.config import MdqConfig
from mdp.events import QUEUE_OF, FrameDecoder
from mdp.exchange_calendar import ExchangeCalendar
from mdp.processor.checkpoint import CheckpointStore
from mdp.processor.engine import Engine
from mdp.processor.partition_build import PartitionBuilder
from mdp.processor.partitions import Partitions
from mdp.processor.results import Results
from mdp.processor.spread import Spread
from mdp.queues.base import Batch
from mdp.queues.stream_reader import StreamReader
from mdp.queues.stream_writer import StreamWriter
from tests.redis_server import RedisServer

KEYS = Keys("t:")
ANALYZERS: tuple[type[Analyzer], ...] = (
    RawFeeds, EnrichedQuote, Leaderboards, TopTrades, TradeStats, DailyRange, Halts,
)  # fmt: skip
LISTS = ("daily_range_hod_alert", "daily_range_lod_alert", "halts")
# Waited for where a processor dies; long enough for a busy machine to renew them.
QUICK: dict[str, Any] = {"seconds": 2.0, "renew_seconds": 0.2, "margin_seconds": 0.5}


def decoded(frames: Iterable[str]) -> list[dict[str, list[Any]]]:
    """The events of each frame, by queue."""
    decoder = FrameDecoder()
    found = []
    for frame in frames:
        groups: dict[str, list[Any]] = {}
        for event in decoder.decode(frame):
            groups.setdefault(QUEUE_OF[type(event)], []).append(event)
        found.append(groups)
    return found


class Listener:
    """The listener's end: puts events into the streams."""

    def __init__(self, server: RedisServer, partitions: int, epoch: int = 1) -> None:
        config = server.config()
        self.client = connect(config)
        self.epoch = epoch
        self.writer = StreamWriter(
            self.client,
            KEYS,
            MdqConfig(backend="redis", partitions=partitions, ttl_seconds=30),
            Link("listener", config),
            epoch=lambda: self.epoch,
        )

    async def start(self) -> None:
        await self.writer.start()

    async def stop(self) -> None:
        await self.writer.stop()
        await self.client.aclose()

    async def send(self, frames: Iterable[str], *, at_once: int = 20) -> int:
        """Send frames, and wait until Redis has them; returns the number of events."""
        count = 0
        for number, groups in enumerate(decoded(frames), 1):
            for queue, events in groups.items():
                count += len(events)
                self.writer.queues[queue].put(Batch(events, time.monotonic_ns()))
            if number % at_once == 0:
                await asyncio.sleep(0.001)
        sent = self.writer.counters
        async with asyncio.timeout(30):
            while any(q.waiting for q in self.writer.queues.values()) or sent.sent < sum(  # noqa: ASYNC110
                q.counters.taken for q in self.writer.queues.values()
            ):
                await asyncio.sleep(0.005)
        return count


class Processor:
    """One processor, as the role puts it together."""

    def __init__(
        self,
        server: RedisServer,
        member: str,
        partitions: int,
        *,
        references: Mapping[str, Any] | None = None,
        **times: Any,
    ) -> None:
        config = server.config()
        self.client: Any = connect(config)
        self.link = Link("values", config)
        self.interest = InterestWatch(self.client, KEYS, self.link)
        self.writer = RedisWriter(
            self.client, self.client, KEYS, self.interest, link=self.link, parts_link=Link("parts", config)
        )
        self.control = Control(self.client, KEYS.control)
        self.builder = PartitionBuilder(
            self.writer, partitions, ANALYZERS, calendar=ExchangeCalendar(), max_symbols=10_000,
            include_otc=False, max_failures=1, on_refused=lambda p: self.partitions.drop(p),
        )  # fmt: skip
        self.partitions = Partitions(
            StreamReader(self.client, KEYS, Link("reader", config), ttl_seconds=30),
            CheckpointStore(self.client, KEYS),
            self.builder,
        )
        if references is not None:
            self.partitions.on_ready.append(lambda _p, engine: engine.market.refer(references))
        self.spread = Spread(
            self.client, KEYS, self.control, self.partitions, member=member, partitions=partitions,
            **(times or QUICK),
        )  # fmt: skip

    async def start(self) -> None:
        for stage in (self.interest, self.writer, self.control, self.partitions, self.spread):
            await stage.start()

    async def stop(self) -> None:
        for stage in (self.spread, self.partitions, self.control, self.writer, self.interest):
            await stage.stop()
        await self.client.aclose()

    async def crash(self) -> None:
        """As `kill -9`, as far as Redis sees it: whatever it does, nothing more is written."""
        tasks = [
            self.spread._task, self.partitions._task, self.writer._task, self.writer.parts._task,
            *self.partitions._keeping.values(), *self.spread._taking.values(),
        ]  # fmt: skip
        await end(*tasks)
        for one in self.partitions.working.values():
            await one.stop()
        await self.control.stop()
        await self.interest.stop()

    @property
    def acquisitions(self) -> int:
        """Partitions taken since the start, each time counted: one may be lost and ours again in a moment."""
        return sum(lease.acquisitions for lease in self.spread.leases.values())

    @property
    def live(self) -> set[int]:
        """Partitions that are past their replay."""
        return {number for number, one in self.partitions.working.items() if one.live}

    @property
    def processed(self) -> int:
        return self.partitions.processed

    def failures(self) -> list[str]:
        """Analyzers that raised."""
        return [
            guard.name
            for one in self.partitions.working.values()
            for guard in one.engine.guards
            if guard.failures or one.failures
        ]


class OneProcess:
    """The same market in one process: what everything is compared with."""

    def __init__(self, references: Mapping[str, Any] | None = None) -> None:
        bus = MemoryBus(epoch=1)
        self.cache = MemoryCache(bus)
        results = Results(bus, self.cache)
        self.market = Market()
        if references is not None:
            self.market.refer(references)
        self.engine = Engine(
            self.market, results, [kind(self.market, results) for kind in ANALYZERS], max_failures=1
        )
        self.events: dict[str, list[dict[str, Any]]] = {name: [] for name in LISTS}
        for name in LISTS:
            bus.subscribe(name, lambda message, name=name: self.events[name].append(as_json(message.value)))  # type: ignore[misc]

    def send(self, frames: Iterable[str]) -> None:
        for groups in decoded(frames):
            for queue, events in groups.items():
                self.engine.process(queue, Batch(events, time.monotonic_ns()))


def as_json(value: Any) -> Any:
    """A payload as clients see it."""
    return json.loads(msgspec.json.encode(value))


def rounded(value: dict[str, Any]) -> dict[str, Any]:
    """Without the last digits: sums of floats depend on where a checkpoint cuts them in two."""
    return {name: float(f"{x:.12g}") if isinstance(x, float) else x for name, x in value.items()}


def told(server: RedisServer, name: str) -> list[dict[str, Any]]:
    """The whole history of an event feed, oldest first."""
    with server.client() as client:
        return [json.loads(fields[b"d"]) for _, fields in client.xrange(KEYS.events(name))]


def values_of(markets: Iterable[Market], engines: Iterable[Engine]) -> dict[str, Any]:
    """Final values of every symbol: quotes, ranges, day statistics of trades, halts."""
    found: dict[str, Any] = {}
    for market, engine in zip(markets, engines, strict=True):
        by_name = {guard.name: guard.analyzer for guard in engine.guards}
        ranges: Any = by_name["daily_range"]
        halts: Any = by_name["halts"]
        for symbol in market.symbols:
            found[f"range {symbol}"] = as_json(ranges.payload(symbol))
        for symbol, trades in market.trades.symbols.items():
            found[f"trades {symbol}"] = rounded(as_json(trades.day(symbol)))
        for symbol in halts._states:
            found[f"halt {symbol}"] = as_json(halts._row_of(symbol))
    return found


def values_of_all(processors: Iterable[Processor]) -> dict[str, Any]:
    """The same of the partitions of several processors."""
    engines = [one.engine for node in processors for one in node.partitions.working.values()]
    return values_of([engine.market for engine in engines], engines)


def sorted_events(events: Iterable[dict[str, Any]], fields: Iterable[str]) -> list[tuple[Any, ...]]:
    """What identifies each, in an order that does not depend on who came first."""
    names = tuple(fields)
    return sorted(tuple(str(event.get(name)) for name in names) for event in events)
