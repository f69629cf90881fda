"""A market whose time went back is noticed by the provider's own clock, and nothing else is taken for it."""

from __future__ import annotations

import msgspec

from mdp.analyzers.state import Market
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.events import AGGREGATES, Aggregate
from mdp.processor.engine import Engine
from mdp.processor.results import Results
from mdp.processor.rewind import RewindWatch
from mdp.queues.base import Batch

OPEN = 1_773_149_400_000  # 2026-03-10 09:30 New York
S = 1_000_000_000


class Answer(msgspec.Struct):
    """What the provider said, and when it came."""

    server_time_ms: int | None
    fetched_ns: int


class Bench:
    """A watch over an engine, with both clocks in plain variables."""

    def __init__(self) -> None:
        self.now = 1_000 * S
        bus = MemoryBus(epoch=1)
        self.market = Market()
        self.engine = Engine(self.market, Results(bus, MemoryCache(bus)), [], max_failures=1)
        self.watch = RewindWatch(self.engine, clock=lambda: self.now)

    def look(self, seconds: int, server_ms: int | None, *, market_ms_a_second: float = 1_000) -> bool:
        """Look once a second, with an answer of the provider at the last look; whether a rewind was seen."""
        seen = False
        for _ in range(seconds):
            self.now += S
            if self.market.clock.now_ms:
                self.market.clock.now_ms += market_ms_a_second
            seen |= self.watch.look(None)
        return seen | self.watch.look(Answer(server_ms, self.now))

    def see(self, *times_ms: int) -> bool:
        """Take a bar of each time, with a look after each; whether a rewind was seen."""
        seen = False
        for at, ms in enumerate(times_ms):
            bar = Aggregate(symbol=f"S{at}", close=1, high=1, low=1, start_timestamp=ms)
            self.engine.process(AGGREGATES, Batch([bar], self.now, ()))
            self.now += S
            seen |= self.watch.look(None)
        return seen


def test_a_provider_whose_clock_is_well_before_the_markets_began_again() -> None:
    """The day starts afresh at the provider's time, once."""
    bench = Bench()
    bench.market.clock.set(OPEN + 3_600_000)
    assert not bench.look(10, OPEN)
    assert bench.see(OPEN + 500, OPEN + 1_500)

    assert bench.market.clock.now_ms == OPEN
    assert bench.watch.rewinds == 1
    assert not bench.look(10, OPEN + 10_000)


def test_a_live_market_is_never_taken_for_one() -> None:
    """Lags of seconds, a delayed feed behind its provider's clock, and events a little ahead of it."""
    for offset_ms in (-60_000, 0, 2_000, 900_000):
        bench = Bench()
        bench.market.clock.set(OPEN)
        for minute in range(10):
            assert not bench.look(30, OPEN + (minute + 1) * 30_000 + offset_ms), offset_ms


def test_a_replay_that_runs_minutes_a_second_is_not_taken_for_one() -> None:
    """The answer is compared with what the market showed before the question was asked, not after."""
    bench = Bench()
    bench.market.clock.set(OPEN)
    server = OPEN
    for _ in range(10):
        server += 30 * 300_000
        assert not bench.look(30, server - 300_000, market_ms_a_second=300_000)


def test_restored_state_of_a_later_time_is_noticed_at_the_first_answer() -> None:
    """A snapshot of a simulator that has begun again since."""
    bench = Bench()
    bench.market.clock.set(OPEN + 3_600_000)
    bench.watch.restored()

    assert not bench.look(0, OPEN)
    assert bench.see(OPEN, OPEN + 1_000)


def test_a_provider_that_tells_a_wrong_time_while_its_events_go_on_costs_nothing() -> None:
    """A fixed server time, or none of this market: neither live, nor restored, nor in a pause, nor by a
    single late bar is the day started afresh."""
    bench = Bench()
    hour = OPEN + 3_600_000
    bench.market.clock.set(hour)
    bench.watch.restored()

    assert not bench.look(0, OPEN)
    assert not bench.look(100, OPEN, market_ms_a_second=0)
    assert not bench.see(*range(hour, hour + 50_000, 1_000))
    assert not bench.look(100, OPEN, market_ms_a_second=0)
    assert not bench.see(hour - 300_000, hour + 51_000, hour - 300_000)


def test_an_answer_without_a_time_says_nothing() -> None:
    """The provider's `serverTime` may be missing; that must not end the watch."""
    bench = Bench()
    bench.market.clock.set(OPEN)

    assert not bench.look(10, None)


def test_nothing_is_compared_before_the_first_event() -> None:
    """A platform that has just started knows no market time."""
    assert not Bench().look(10, OPEN)
