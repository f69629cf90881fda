"""Partitions with real engines over a real Redis, and one process with the same market beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mdp.analyzers.base import Analyzer
from mdp.analyzers.daily_range import DailyRange
from mdp.analyzers.enriched_quote import EnrichedQuote
from mdp.analyzers.halts import Halts
from mdp.analyzers.leaderboards import Leaderboards
from mdp.analyzers.raw_feeds import RawFeeds
from mdp.analyzers.state import Market
from mdp.analyzers.top_trades import TopTrades
from mdp.analyzers.trade_stats import TradeStats
from mdp.cache.base import encode_json
from mdp.events import QUEUE_OF, FrameDecoder
from mdp.processor.engine import Engine
from mdp.processor.partition_output import PartitionOutput
from mdp.processor.results import Results
from mdp.queues.base import Batch
from mdp.queues.entry import partition_of
from tests.analyzers.rig import Rig as OneProcess
from tests.analyzers.rig import at
from tests.cache.writer_rig import Rig as WriterRig

NOON = at(12)


def analyzers_of(market: Market, results: Results, clock: Callable[[], int]) -> list[Analyzer]:
    """All of them."""
    return [
        RawFeeds(market, results, clock),
        EnrichedQuote(market, results, clock),
        Leaderboards(market, results),
        TopTrades(market, results),
        TradeStats(market, results),
        DailyRange(market, results),
        Halts(market, results),
    ]


class Partition:
    """One partition's engine and way out."""

    def __init__(self, rig: WriterRig, number: int, count: int, epoch: int = 1) -> None:
        self.valid = True
        self.refused = 0
        self.events = 0
        self.number, self.count = number, count
        self.out = PartitionOutput(
            rig.writer,
            number,
            count,
            epoch,
            valid=lambda: self.valid,
            on_refused=self._refuse,
            clock=rig.clock,
        )
        self.market = Market()
        self.engine = Engine(
            self.market,
            self.out.results,
            analyzers_of(self.market, self.out.results, lambda: int(rig.time * 1e9)),
            max_failures=1,
        )
        self.out.attach(self.engine, gather=self.gather, events=lambda: self.events, warming_up=lambda: False)
        self.decoder = FrameDecoder()

    def _refuse(self) -> None:
        self.refused += 1

    def send(self, *wire: dict[str, Any]) -> None:
        """The events of ours; of others the time, as the listener's heartbeat tells it."""
        ours = [
            event
            for event in wire
            if event["ev"] == "Q" or partition_of(event.get("sym") or event["T"], self.count) == self.number
        ]
        if not ours:
            return
        frame = json.dumps(ours)
        groups: dict[str, list[Any]] = {}
        for event in self.decoder.decode(frame):
            groups.setdefault(QUEUE_OF[type(event)], []).append(event)
        for queue, events in groups.items():
            self.events += len(events)
            self.engine.process(queue, Batch(events, 0, [(0, frame)]))

    async def gather(self) -> None:
        """As `Processor.gather`."""
        self.flush(tick=True)

    def flush(self, *, tick: bool = False) -> None:
        """Let analyzers publish what is due; boards one after another, all of them."""
        for guard in self.engine.guards:
            if guard.analyzer.flush_on_tick == tick:
                for _ in range(7 if isinstance(guard.analyzer, Leaderboards) else 1):
                    for _ in guard.flush():
                        self.engine.results.commit()
                    self.engine.results.commit()
        assert [guard.name for guard in self.engine.guards if guard.failures] == []


class Markets:
    """So many partitions of one process, and the market in one process (`one`)."""

    def __init__(self, rig: WriterRig, count: int = 4) -> None:
        self.rig = rig
        self.one = OneProcess()
        self.partitions = [Partition(rig, number, count) for number in range(count)]
        self.send(*[{"ev": "Q", "sym": name, "t": NOON} for name in ("ZZX", "ZZY", "ZZZ")])

    def send(self, *wire: dict[str, Any]) -> None:
        """To everybody."""
        self.one.send(*wire)
        for partition in self.partitions:
            partition.send(*wire)

    def flush(self) -> None:
        """What is due once a second or more rarely."""
        for partition in self.partitions:
            partition.flush()

    def expected(self, key: str) -> bytes:
        """The payload of one process."""
        asking = self.one.cache.get(key)
        while True:
            try:
                asking.send(None)
            except StopIteration as answer:
                return b"null" if answer.value is None else encode_json(answer.value.value)
