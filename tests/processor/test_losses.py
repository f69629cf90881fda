"""Losses in one place: what they mark, and what the gap ledger says of them."""

from __future__ import annotations

from typing import Any

from mdp.analyzers.state import Market
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.events import AGGREGATES, TRADES, Aggregate, Trade
from mdp.listener.gaps import Gap, GapLedger
from mdp.listener.ring import RawRing
from mdp.observability.metrics import Metrics
from mdp.processor.losses import RING, Losses, TrustKeeper
from mdp.processor.results import Results
from mdp.queues.base import Batch
from mdp.queues.memory import MemoryQueue
from tests.analyzers.rig import FakeClock, at

NOON = at(12)


class Rig:
    """A market at noon with two symbols, a ring, and queues that tell of what they lose."""

    def __init__(self, *, now_ms: float = NOON) -> None:
        self.clock = FakeClock()
        self.market = Market()
        if now_ms:
            self.market.clock.set(now_ms)
        self.ring = RawRing(max_bytes=100, max_age_ns=10**12, clock=self.clock)
        self.ledger = GapLedger(wall_ms=lambda: self.clock.ns // 1_000_000)
        self.wanted: list[tuple[Gap, int, float]] = []
        self.server_ms: int | None = None
        self.losses = Losses(
            self.market, self.ring, self.ledger, self, server_ms=lambda: self.server_ms, clock=self.clock
        )

    def want(self, gap: Gap, number: int, until_ms: float) -> None:
        """As the repairer that is told."""
        self.wanted.append((gap, number, until_ms))

    def move(self, ms: float) -> None:
        """Data comes: the market's clock goes on."""
        self.market.clock.now_ms += ms

    def look(self, seconds: float = 1.0) -> None:
        """A look, that much later."""
        self.clock.advance(seconds)
        self.losses.look()

    def entry(self, number: int = -1) -> dict[str, Any]:
        """Of the ledger, the newest by default."""
        return self.ledger.entries()[number]

    def since(self, symbol: str = "AAA") -> float | None:
        return self.market.trust.uncertain_since(symbol)


def bars(*symbols: str) -> Batch:
    """A batch of aggregates."""
    return Batch(
        [Aggregate(symbol=symbol, close=1, high=1, low=1, start_timestamp=NOON) for symbol in symbols], 1
    )


def test_an_outage_marks_all_rows_from_its_first_moment_to_its_end() -> None:
    """Also those that frames which had come before still brought up to date."""
    rig = Rig()
    rig.ledger.open("aborted")
    assert rig.market.is_stale("AAA", NOON)
    rig.move(500)  # what waited in the ring
    rig.look()
    assert rig.market.is_stale("AAA", NOON + 500)
    assert rig.since() == NOON
    assert rig.wanted == []
    rig.ledger.close()
    rig.look()
    assert rig.wanted == [], "nothing has come yet: what was missed is not over"
    rig.move(30_000)
    rig.look()
    ((gap, number, until_ms),) = rig.wanted
    assert (gap.reason, until_ms) == ("aborted", NOON + 30_500)
    assert (gap.market_start_ms, gap.market_end_ms) == (NOON, NOON + 30_500)
    assert number == rig.market.trust.number
    assert rig.since() == NOON
    assert not rig.market.is_stale("AAA", NOON + 30_500)
    rig.look()
    assert len(rig.wanted) == 1


def test_the_ledger_names_what_no_question_brings_back() -> None:
    """Trades, quotes, their windows, halts and alerts; and that any symbol's extremes may be wrong."""
    rig = Rig()
    rig.ledger.open("aborted")
    entry = rig.entry()
    assert {"stocks:trades:{S}", "stocks:quotes:{S}", "tta:{S}:widget", "trade_stats:{S}", "halts"} <= set(
        entry["not_recoverable"]
    )
    assert (entry["uncertain"], entry["uncertain_count"], entry["symbols"]) == (None, None, None)
    assert entry["repair"] == "waiting"


def test_an_outage_before_the_first_event_marks_nothing() -> None:
    """There is nothing that could be incomplete."""
    rig = Rig(now_ms=0)
    rig.ledger.open("refused")
    rig.ledger.close()
    rig.look(20)
    assert not rig.market.trust
    assert rig.wanted == []


def test_an_outage_into_the_next_day_is_one_of_that_day_since_four() -> None:
    """The reset forgets the old day; what was missed of the new one is not forgotten."""
    rig = Rig(now_ms=at(19, 59))
    rig.ledger.open("aborted")
    rig.ledger.close()
    later = at(9, day=(2024, 3, 6))
    rig.market.clock.set(later)
    rig.market.start_day()
    assert rig.since() is None
    rig.look()
    assert rig.since() == at(4, day=(2024, 3, 6))
    assert rig.wanted[0][2] == later


def test_a_quiet_market_is_repaired_up_to_the_providers_time() -> None:
    """Connected again and no event for ten seconds; nothing is after the end of after-hours."""
    for server_ms, until_ms in ((NOON + 60_000, NOON + 60_000), (at(23), at(20)), (None, NOON), (1, NOON)):
        rig = Rig()
        rig.server_ms = server_ms
        rig.ledger.open("aborted")
        rig.ledger.close()
        rig.look(9)
        assert rig.wanted == []
        rig.look(2)
        assert rig.wanted[0][2] == until_ms


def test_a_market_that_began_again_missed_nothing() -> None:
    """A replay's second round: the reset forgets what was lost in the first, and nothing is asked for."""
    rig = Rig()
    rig.ledger.open("aborted")
    rig.ledger.close()
    rig.market.clock.set(at(10))
    rig.market.start_day()
    rig.look()
    rig.move(5_000)
    rig.look(11)
    assert rig.wanted == []
    assert rig.since() is None
    assert rig.entry()["repair"] == "off"


def test_the_first_event_after_a_quiet_time_proves_up_to_when_it_lasted() -> None:
    """A provider whose own time is wrong would leave a hole; where it was right there is none."""
    for server_ms, again in ((NOON + 1_000, True), (NOON + 30_000, False)):
        rig = Rig()
        rig.server_ms = server_ms
        rig.ledger.open("aborted")
        rig.ledger.close()
        rig.look(11)
        rig.look(11)
        assert len(rig.wanted) == 1
        rig.market.trust.settle(rig.wanted[0][1], [])
        rig.move(20_000)
        rig.look()
        rig.look()
        assert [until for _, _, until in rig.wanted[1:]] == ([NOON + 20_000] if again else [])
        assert rig.since() == (NOON + 1_000 if again else None)


def test_outages_of_a_quiet_market_do_not_gather() -> None:
    """A night of broken connections: the first event ends all, and each was handed on once."""
    rig = Rig()
    for number in range(5):
        rig.ledger.open(f"broken{number}")
        rig.ledger.close()
        rig.look(11)
    assert [gap.reason for gap, _, _ in rig.wanted] == [f"broken{number}" for number in range(5)]
    rig.move(60_000)
    rig.look()
    assert [gap.reason for gap, _, _ in rig.wanted[5:]] == ["broken4"]


async def test_a_restart_is_a_gap_from_the_kept_time_to_the_first_event() -> None:
    """With its own entry, and everything marked until it is repaired."""
    rig = Rig()
    await rig.losses.start()
    await rig.losses.stop()
    assert rig.entry()["reason"] == "restart"
    assert (rig.entry()["market_start_ms"], rig.entry()["end_ms"]) == (NOON, None)
    assert rig.market.is_stale("AAA", NOON)
    rig.move(90_000)
    rig.look()
    assert rig.entry()["market_end_ms"] == NOON + 90_000
    assert [(gap.reason, until) for gap, _, until in rig.wanted] == [("restart", NOON + 90_000)]


async def test_a_first_start_is_no_restart() -> None:
    """Nothing was kept."""
    rig = Rig(now_ms=0)
    await rig.losses.start()
    await rig.losses.stop()
    assert rig.ledger.entries() == []
    await rig.losses.stop()


def test_shed_frames_are_a_loss_of_any_symbol() -> None:
    """Counted in frames and events, marked once a second, one entry while it goes on."""
    rig = Rig()
    for _ in range(3):
        for _ in range(5):
            rig.ring.append('[{"ev":"T"},{"ev":"A"}]' * 2, rig.clock())
        before = rig.market.losses
        rig.look()
        assert rig.market.losses == before + 1
        rig.move(1_000)
    shed = rig.ring.counters
    assert shed.shed_frames > 3
    entry = rig.entry()
    assert len(rig.ledger.entries()) == 1
    assert (entry["reason"], entry["frames"], entry["events"]) == (
        "shed", shed.shed_frames, shed.shed_events,
    )  # fmt: skip
    assert rig.since("any") == NOON
    assert rig.wanted == []
    rig.look(4)
    assert rig.entry()["end_ms"] is None
    rig.look(2)
    assert (rig.entry()["market_start_ms"], rig.entry()["market_end_ms"]) == (NOON, NOON + 3_000)
    assert [until for _, _, until in rig.wanted] == [NOON + 3_000]


def test_a_batch_that_expired_is_a_loss_of_exactly_its_symbols() -> None:
    """From the queue itself, merged with what follows, named in the ledger."""
    rig = Rig()
    queue = MemoryQueue(AGGREGATES, max_events=10, ttl_ns=5_000_000_000, clock=rig.clock)
    queue.on_loss = lambda reason, batch: rig.losses.queue_lost(AGGREGATES, reason, batch)
    for symbols in (("AAA", "BBB"), ("BBB", "CCC")):
        batch = bars(*symbols)
        batch.arrival_ns = rig.clock()
        queue.put(batch)
        rig.clock.advance(6)
        assert queue.take() is None
    rig.look()
    entry = rig.entry()
    assert (entry["reason"], entry["events"], entry["symbols"]) == ("expired", 4, ["AAA", "BBB", "CCC"])
    assert (entry["uncertain"], entry["uncertain_count"]) == (["AAA", "BBB", "CCC"], 3)
    assert [rig.since(name) for name in ("AAA", "CCC", "DDD")] == [NOON, NOON, None]
    rig.look(6)
    number = rig.market.trust.number
    assert [(gap.reason, until) for gap, until, _ in rig.wanted] == [("expired", number)]


def test_a_loss_begins_where_the_oldest_lost_bar_does() -> None:
    """Bars come late and waited: the clock is ahead of them. A very late one tells nothing of the others."""
    rig = Rig()
    for start in (NOON + 1_000, NOON - 7_000, NOON - 700_000):
        rig.losses.queue_lost(AGGREGATES, "expired", Batch([Aggregate("AAA", 1, 1, 1, start)], 1))
    rig.look()
    assert (rig.since(), rig.entry()["market_start_ms"]) == (NOON - 7_000, NOON - 7_000)
    rig.losses.queue_lost(AGGREGATES, "expired", Batch([Aggregate("BBB", 1, 1, 1, NOON - 9_000)], 1))
    rig.look()
    assert (rig.since("BBB"), rig.entry()["market_start_ms"]) == (NOON - 9_000, NOON - 9_000)


def test_a_loss_does_not_begin_on_the_day_before() -> None:
    """Of that day nothing is kept."""
    rig = Rig(now_ms=at(4, 0, 1))
    rig.losses.queue_lost(AGGREGATES, "expired", Batch([Aggregate("AAA", 1, 1, 1, at(3, 59, 58))], 1))
    assert rig.since() == at(4)


def test_highs_are_uncertain_from_the_loss_on() -> None:
    """The next bar comes before the next look; that one enters the loss and lets rows say so."""
    rig = Rig()
    rig.losses.note(AGGREGATES, "expired", 1, {"AAA"})
    assert [rig.since(name) for name in ("AAA", "BBB")] == [NOON, None]
    rig.move(400)
    rig.losses.note(RING, "shed", 1, None)
    rig.losses.note(RING, "shed", 1, None)
    rig.losses.note(TRADES, "expired", 1, None)
    assert [rig.since(name) for name in ("AAA", "BBB")] == [NOON, NOON + 400]
    assert (rig.market.losses, rig.market.trust.number, rig.ledger.entries()) == (0, 2, [])
    rig.look()
    assert rig.market.losses == 2
    assert [rig.since(name) for name in ("AAA", "BBB")] == [NOON, NOON + 400]
    rig.look(6)
    assert len(rig.wanted) == 2
    for _, number, _ in rig.wanted:
        rig.market.trust.repaired("AAA", number)
    assert rig.since() is None, "a repair is of the marks, too"


def test_what_a_full_queue_drops_is_exactly_the_oldest_symbols() -> None:
    """Also where a batch is dropped in part."""
    rig = Rig()
    queue = MemoryQueue(AGGREGATES, max_events=3, clock=rig.clock)
    queue.on_loss = lambda reason, batch: rig.losses.queue_lost(AGGREGATES, reason, batch)
    queue.put(bars("AAA", "BBB", "CCC"))
    queue.put(bars("DDD", "EEE"))
    rig.look()
    entry = rig.entry()
    assert (entry["reason"], entry["symbols"], entry["events"]) == ("dropped", ["AAA", "BBB"], 2)
    assert rig.losses.events == {"dropped": 2}


def test_lost_trades_are_entered_and_make_no_extreme_uncertain() -> None:
    """Bars set ranges; what follows from trades cannot be had again, and nothing is asked for."""
    rig = Rig()
    trade = Trade(symbol="AAA", price=1, size=1, timestamp=NOON)
    rig.losses.queue_lost(TRADES, "expired", Batch([trade] * 7, 1))
    rig.look()
    entry = rig.entry()
    assert (entry["events"], entry["uncertain"], entry["repair"]) == (7, [], "")
    assert "tta:{S}:widget" in entry["not_recoverable"]
    assert "stocks:quotes:{S}" not in entry["not_recoverable"]
    assert rig.since() is None
    rig.look(6)
    assert rig.entry()["end_ms"] is not None
    assert rig.wanted == []


def test_very_many_symbols_are_any_symbol() -> None:
    """The ledger and the notes stay bounded."""
    rig = Rig()
    for first in range(0, 30_000, 10_000):
        rig.losses.queue_lost(
            AGGREGATES, "expired", bars(*(f"S{number}" for number in range(first, first + 10_000)))
        )
    rig.look()
    assert rig.entry()["symbols"] is None
    assert rig.market.trust.whole_market


def test_its_state_and_counts_are_shown() -> None:
    """As metrics and in /readyz, good all the time."""
    rig = Rig()
    metrics = Metrics()
    rig.losses.register(metrics)
    assert rig.losses.health().ok
    rig.market.state_of("AAA")
    rig.market.state_of("BBB")
    rig.ledger.open("aborted")
    number = rig.market.trust.number
    assert "any symbol" in rig.losses.health().detail
    rig.market.trust.repaired("AAA", number)
    text = metrics.render().decode()
    assert 'mdp_gap_entries_total{reason="aborted"} 1.0' in text
    assert "mdp_gap_uncertain_symbols 1.0" in text
    rig.market.trust.settle(number, ["BBB"])
    assert rig.losses.uncertain() == 1
    assert "1 symbols" in rig.losses.health().detail


def test_trust_is_kept_by_an_analyzer_of_no_events() -> None:
    """For the snapshot."""
    rig, other = Rig(), Rig()
    bus = MemoryBus(epoch=1)
    out = Results(bus, MemoryCache(bus))
    rig.market.lose(["AAA"])
    records = list(TrustKeeper(rig.market, out).dump())
    TrustKeeper(other.market, out).hydrate(records)
    assert other.since("AAA") == NOON
    assert other.since("BBB") is None
