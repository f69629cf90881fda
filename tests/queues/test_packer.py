"""What waits for the streams, and how it is packed: without Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mdp.config import MdqConfig
from mdp.events import Aggregate, Trade
from mdp.queues.base import Batch
from mdp.queues.entry import partition_of, unpack, unpack_header
from mdp.queues.packer import Packer
from mdp.queues.streams import Outgoing
from mdp.sessions import MarketClock
from tests.queues.streams_support import KEYS, NOW_MS


class Rig:
    """A packer with a clock that a test turns, and what it told."""

    def __init__(self, **changes: Any) -> None:
        self.now_ns = 10_000_000_000
        self.told: list[tuple[int, float]] = []
        self.wake = asyncio.Event()
        settings = {"partitions": 4, "ttl_seconds": 5.0, **changes}
        self.packer = Packer(
            KEYS,
            MdqConfig(**settings),
            self.wake,
            MarketClock(),
            clock=lambda: self.now_ns,
            wall_ms=lambda: 50_000,
            trace=lambda: "00-trace",
            packed=lambda arrival, market: self.told.append((arrival, market)),
        )

    def put(self, queue: str, events: list[Any], age_ns: int = 0) -> None:
        self.packer.queues[queue].put(Batch(events, self.now_ns - age_ns))

    def pack(self) -> list[list[Outgoing]]:
        return self.packer.pack(7)


def trade(symbol: str = "A", number: int = 1) -> Trade:
    return Trade(symbol, 1, number, NOW_MS + number)


def test_nothing_waiting_packs_nothing() -> None:
    """And tells nobody."""
    rig = Rig()
    assert rig.pack() == []
    assert rig.told == []


def test_batches_of_a_step_share_an_entry_for_each_stream() -> None:
    """With the oldest's arrival, the market clock and the trace; the pace is told the newest's arrival."""
    rig = Rig()
    rig.put("trades", [trade(number=1)], age_ns=2_000_000_000)
    rig.put("trades", [trade(number=2)], age_ns=1_000_000_000)
    ((entry,),) = rig.pack()
    header = unpack_header(entry.header)
    assert (header.epoch, header.place, header.total, header.count) == (7, 1, 2, 2)
    assert (header.arrival_ms, header.market_ms, header.trace) == (48_000, NOW_MS + 2, "00-trace")
    assert [event.size for event in unpack("trades", entry.events)] == [1, 2]
    assert rig.told == [(9_000_000_000, NOW_MS + 2)]


def test_one_pipeline_has_one_entry_of_a_stream() -> None:
    """What is larger than an entry follows in further pipelines, in order."""
    rig = Rig(flush_bytes=1_024)  # 16 events
    rig.put("trades", [trade(number=number) for number in range(40)])
    rounds = rig.pack()
    assert [[entry.count for entry in entries] for entries in rounds] == [[16], [16], [8]]
    sizes = [event.size for entries in rounds for event in unpack("trades", entries[0].events)]
    assert sizes == list(range(40))
    assert [entries[0].place for entries in rounds] == [1, 2, 3]


@pytest.mark.parametrize(("waiting", "packed"), [(5_000, 5_000), (20_000, 20_000), (60_000, 24_000)])
def test_a_step_takes_what_waits_up_to_a_bound(waiting: int, packed: int) -> None:
    """More where more waits, lest a slow Redis lose events; never so much that the loop stands still."""
    rig = Rig()
    for first in range(0, waiting, 1_000):
        rig.put("trades", [trade(number=first + number) for number in range(1_000)])
    assert sum(entry.count for entries in rig.pack() for entry in entries) == packed


def test_halts_come_before_quotes() -> None:
    """Where not all can go, what is rare and matters goes."""
    rig = Rig()
    for first in range(0, 30_000, 1_000):
        rig.put("trades", [trade(number=first + number) for number in range(1_000)])
    rig.put("aggregates", [Aggregate("A", 1, 1, 1, NOW_MS)])
    queues = {entry.stream.queue for entries in rig.pack() for entry in entries}
    assert queues == {"aggregates", "trades"}


def test_much_waiting_wakes_the_writer_early() -> None:
    """An entry's worth for each partition; less waits for its time."""
    rig = Rig(flush_bytes=1_024)
    rig.put("trades", [trade(number=number) for number in range(63)])
    assert not rig.wake.is_set()
    rig.put("trades", [trade()])
    assert rig.wake.is_set()


def test_what_is_too_old_is_not_packed() -> None:
    """By arrival; a halt is, however old."""
    rig = Rig()
    rig.put("trades", [trade()], age_ns=6_000_000_000)
    rig.put("unknown", [], age_ns=6_000_000_000)
    assert rig.pack() == []
    assert rig.packer.queues["trades"].counters.expired == 1


def test_heartbeats_go_to_quiet_partitions_alone() -> None:
    """With the market clock, and places that count on."""
    rig = Rig()
    rig.put("aggregates", [Aggregate("A", 1, 1, 1, NOW_MS)])
    ((entry,),) = rig.pack()
    entry.stream.last_ms = 2_000
    beats = rig.packer.heartbeat(7, 1_500)
    assert len(beats) == 3
    assert entry.stream not in [beat.stream for beat in beats]
    for beat in beats:
        header = unpack_header(beat.header)
        assert (header.count, header.total, header.place, header.market_ms) == (0, 0, 1, NOW_MS)
        assert unpack("aggregates", beat.events) == []
    assert len(rig.packer.heartbeat(7, 2_000)) == 4


def lost_of(entries: list[Outgoing]) -> dict[tuple[str, int], Any]:
    """What entries say of lost bars, by stream."""
    found = {(e.stream.queue, e.stream.partition): unpack_header(e.header).lost for e in entries}
    return {stream: lost for stream, lost in found.items() if lost is not None}


def bar(symbol: str) -> Aggregate:
    return Aggregate(symbol, 1, 1, 1, NOW_MS)


def test_lost_bars_are_told_with_the_bars_behind_them() -> None:
    """By partition, once, in the next entry of its bars or heartbeat; `on_loss` is told of all losses."""
    rig = Rig()
    told: list[tuple[str, str, int]] = []
    rig.packer.on_loss = lambda queue, reason, batch: told.append((queue, reason, len(batch)))
    symbols = [f"S{n}" for n in range(12)]
    rig.put("aggregates", [bar(symbol) for symbol in symbols], age_ns=6_000_000_000)
    rig.put("trades", [trade("S0")], age_ns=6_000_000_000)
    rig.put("trades", [trade("S0")])
    rig.put("aggregates", [bar("S0")])
    of = {symbol: partition_of(symbol, 4) for symbol in symbols}
    (entries,) = rig.pack()
    mine = sorted(symbol for symbol in symbols if of[symbol] == of["S0"])
    assert 1 < len(mine) < 12
    assert lost_of(entries) == {("aggregates", of["S0"]): {"expired": mine}}
    assert sorted(told) == [("aggregates", "expired", 12), ("trades", "expired", 1)]
    others = set(of.values()) - {of["S0"]}
    rest = {("aggregates", p): {"expired": sorted(s for s in symbols if of[s] == p)} for p in others}
    assert lost_of(rig.packer.heartbeat(7, 1_500)) == rest
    rig.put("aggregates", [bar(symbol) for symbol in symbols])
    assert lost_of(rig.pack()[0]) == {}


def test_many_lost_bars_may_have_been_anybodys() -> None:
    """So may those whose symbol is no plain text: a header must always be written."""
    rig = Rig(partitions=1, max_events=1_000)
    rig.put("aggregates", [bar(f"S{n}") for n in range(101)], age_ns=6_000_000_000)
    rig.put("aggregates", [bar("S0")])
    assert lost_of(rig.pack()[0]) == {("aggregates", 0): {"expired": None}}
    rig.put("aggregates", [bar("S1")] * 1_000)
    rig.put("aggregates", [bar("S2"), bar("S2")])
    assert lost_of(rig.pack()[0]) == {("aggregates", 0): {"dropped": ["S1"]}}
    rig.put("aggregates", [bar("\ud800")], age_ns=6_000_000_000)
    rig.put("aggregates", [bar("S0")])
    assert lost_of(rig.pack()[0]) == {("aggregates", 0): {"expired": None}}


def test_frames_that_were_shed_are_told_to_every_partition() -> None:
    """Nobody knows what was in them; what is behind them is packed later."""
    rig = Rig()
    shed = 0
    rig.packer.shed = lambda: shed
    rig.put("aggregates", [bar("S0")])
    assert lost_of(rig.pack()[0]) == {}
    shed = 3
    rig.put("aggregates", [bar("S0")])
    here = partition_of("S0", 4)
    assert lost_of(rig.pack()[0]) == {("aggregates", here): {"shed": None}}
    rest = lost_of(rig.packer.heartbeat(7, 1_500))
    assert rest == {("aggregates", p): {"shed": None} for p in range(4) if p != here}


def test_a_clock_that_fails_loses_no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are packed all the same."""
    rig = Rig()

    def fail(*_: object) -> bool:
        raise OverflowError

    monkeypatch.setattr(rig.packer.market_clock, "observe", fail)
    rig.put("trades", [trade()])
    ((entry,),) = rig.pack()
    assert entry.count == 1


def test_a_nanosecond_bar_moves_the_clock_by_its_milliseconds() -> None:
    """As the processors' engine reads it."""
    rig = Rig()
    rig.put("aggregates", [Aggregate("A", 1, 1, 1, NOW_MS * 1_000_000)])
    rig.pack()
    assert rig.packer.market_clock.now_ms == NOW_MS
