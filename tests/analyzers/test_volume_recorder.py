"""Recording volumes by time of day: what a slot holds, and when it counts as covered."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp.analyzers.volume_history import SLOT_MS, SLOTS, DayVolumes, run, summarize, unpack_column
from mdp.analyzers.volume_recorder import VolumeRecorder
from mdp.events import AGGREGATES, TRADES, Aggregate, MinuteAggregate, Trade
from mdp.processor.engine import Engine
from mdp.queues.base import Batch
from tests.analyzers.rig import DAY, Rig, at

START = at(4)
NEXT_DAY = (2024, 3, 6)
HALF_DAY = (2024, 7, 3)


class Recorded(Rig):
    """The pipeline with a recorder, and bars that carry the day's volume as on the wire."""

    def __init__(self) -> None:
        super().__init__()
        self.recorder = VolumeRecorder(self.market, self.results)
        self.engine = Engine(self.market, self.results, [self.quote, self.recorder], max_failures=1)
        self.totals: dict[str, float] = {}

    def bars(self, *bars: tuple[str, int, float], ev: type[Aggregate] = Aggregate, av: bool = True) -> None:
        """A batch of (symbol, start, volume); trades of three symbols take the clock there first."""
        newest = max(start for _, start, _ in bars)
        if newest - self.market.clock.now_ms > self.market.clock.LEAP_MS:
            self.trades_at(newest)
        events = []
        for symbol, start, volume in bars:
            self.totals[symbol] = self.totals.get(symbol, 0) + volume
            events.append(
                ev(
                    symbol=symbol,
                    open=1,
                    close=1,
                    high=1,
                    low=1,
                    volume=volume,
                    start_timestamp=start,
                    accumulated_volume=self.totals[symbol] if av else None,
                )
            )
        self.engine.process(AGGREGATES, Batch(events, 1))
        self.check()

    def every_slot(self, symbol: str, first: int = 0, last: int = SLOTS - 1, *, volume: float = 1) -> None:
        """A bar in the middle of each slot."""
        for slot in range(first, last + 1):
            self.bars((symbol, START + slot * SLOT_MS + SLOT_MS // 2, volume))

    def trades_at(self, ms: int) -> None:
        """Three symbols agree what time it is."""
        trades = [Trade(symbol=symbol, price=1, size=1, timestamp=ms) for symbol in ("ZX", "ZY", "ZZ")]
        self.engine.process(TRADES, Batch(trades, 1))

    def next_day(self, day: tuple[int, int, int] = NEXT_DAY) -> None:
        """The first bar of another day."""
        self.totals.clear()
        self.bars(("X", at(4, 1, day=day), 5))

    def ended(self) -> list[DayVolumes]:
        """The days that are over."""
        self.flush(self.recorder)
        return self.recorder.take_ended()

    def so_far(self) -> DayVolumes:
        self.flush(self.recorder)
        day = self.recorder.so_far()
        assert day is not None
        day.check()
        return day


def accumulated(day: DayVolumes) -> dict[int, dict[str, float]]:
    """Covered slot -> symbol -> accumulated volume, of those known then."""
    totals = [0.0] * len(day.symbols)
    table = {}
    for slot, count in day.known:
        indexes, volumes = unpack_column(day.columns[slot])
        for i, volume in zip(indexes, volumes, strict=True):
            totals[i] += volume
        table[slot] = dict(zip(day.symbols[:count], totals, strict=False))
    return table


def test_a_slot_holds_what_was_traded_by_its_end() -> None:
    """The bar that shows that a slot is over is in the next one, whatever else is in its batch."""
    rig = Recorded()
    rig.bars(("A", at(4, 1), 100), ("B", at(4, 2), 10))
    rig.bars(("A", at(4, 4, 59), 50), ("A", at(4, 5), 7), ("C", at(4, 5), 3), ("A", at(4, 5, 1), 1))
    rig.bars(("A", at(4, 10), 2))

    assert accumulated(rig.so_far()) == {
        0: {"A": 150, "B": 10, "C": 0},
        1: {"A": 158, "B": 10, "C": 3},
    }


def test_a_whole_day_is_complete_once_the_next_one_begins() -> None:
    """Also its last slot, which no bar of its own day follows; its symbols are the market's no more."""
    rig = Recorded()
    rig.every_slot("A", volume=10)
    assert rig.ended() == []
    assert rig.so_far().covered == SLOTS - 1

    rig.next_day()

    (day,) = rig.ended()
    assert (day.day.isoformat(), day.slots, day.counted) == ("2024-03-05", SLOTS, SLOTS)
    assert day.complete
    assert accumulated(day)[SLOTS - 1] == {"A": 10 * SLOTS}
    assert rig.ended() == []
    assert rig.so_far().day.isoformat() == "2024-03-06"
    assert "A" not in rig.so_far().symbols


def test_symbols_of_the_last_moments_of_a_day_are_in_its_last_slot() -> None:
    """First seen after the last end of a slot."""
    rig = Recorded()
    rig.every_slot("A")
    rig.bars(("LATE", at(19, 59), 40))
    rig.next_day()

    assert accumulated(rig.ended()[0])[SLOTS - 1]["LATE"] == 40


def test_minute_bars_of_the_new_slot_do_not_count_in_the_old_one() -> None:
    """The first bar past 09:30 holds a minute of the opening's volume."""
    rig = Recorded()
    rig.bars(("A", at(9, 28), 100), ("B", at(9, 28), 100), ev=MinuteAggregate)
    rig.bars(("A", at(9, 29), 20), ev=MinuteAggregate)
    rig.bars(("A", at(9, 30), 9_000), ev=MinuteAggregate)
    rig.bars(("B", at(9, 30), 9_000), ("A", at(9, 31), 1), ev=MinuteAggregate)

    assert accumulated(rig.so_far()) == {65: {"A": 120, "B": 100}}


def test_bars_without_accumulated_volume_are_summed() -> None:
    """Where the record begins with the day; what is past the end is taken off the sum."""
    rig = Recorded()
    rig.bars(("A", at(4, 1), 100), av=False)
    rig.bars(("A", at(4, 4), 50), ("A", at(4, 5), 7), ("A", at(4, 6), 7), av=False)

    assert accumulated(rig.so_far()) == {0: {"A": 150}}


def test_without_accumulated_volume_nothing_counts_after_an_interruption() -> None:
    """Our sums lack what was traded meanwhile, at any later time of the day."""
    rig = Recorded()
    rig.bars(("A", at(4, 1), 100), av=False)
    rig.bars(("A", at(4, 6), 100), av=False)
    rig.bars(("A", at(8), 100), av=False)
    for minute in range(59):
        rig.bars(("A", at(9, minute), 100), av=False)

    assert list(accumulated(rig.so_far())) == [0, 1]


def test_bars_of_another_source_without_totals_do_not_end_the_record() -> None:
    """Bars that repair an outage come from REST, which knows no accumulated volume."""
    rig = Recorded()
    rig.bars(("A", at(4, 1), 100))
    rig.bars(("A", at(4, 6), 1))
    rig.bars(("A", at(4, 21), 10), av=False)
    rig.bars(("A", at(4, 26), 10))

    assert list(accumulated(rig.so_far())) == [0, 1, 4]


def test_a_trade_that_crosses_the_end_first_does_not_end_the_slot() -> None:
    """Bars come a second or two after the trades that they are made of."""
    rig = Recorded()
    rig.bars(("A", at(4, 4), 100))
    rig.trades_at(at(4, 5))
    rig.bars(("A", at(4, 4, 59), 30))
    assert rig.so_far().covered == 0
    rig.bars(("A", at(4, 5), 1))

    assert accumulated(rig.so_far()) == {0: {"A": 130}}


def test_a_late_bar_counts_from_the_slot_in_which_it_came() -> None:
    """A slot that is over does not change."""
    rig = Recorded()
    rig.bars(("A", at(4, 1), 100), ("B", at(4, 1), 1))
    rig.bars(("A", at(4, 6), 10))
    rig.bars(("B", at(4, 2), 5))
    rig.bars(("A", at(4, 11), 1))

    assert accumulated(rig.so_far()) == {0: {"A": 100, "B": 1}, 1: {"A": 110, "B": 6}}


def test_slots_without_any_bar_are_not_covered() -> None:
    """Nobody can tell a feed that was down from a market that slept."""
    rig = Recorded()
    rig.bars(("A", at(4, 1), 100))
    rig.bars(("A", at(4, 21), 10))
    rig.bars(("A", at(4, 26), 10))

    assert accumulated(rig.so_far()) == {0: {"A": 100}, 4: {"A": 110}}


def test_a_late_bar_proves_nothing_of_its_slot() -> None:
    """Nobody was there from 04:05 to 04:20; a bar of 04:11 that comes later is no witness."""
    rig = Recorded()
    rig.bars(("A", at(4, 1), 100))
    rig.bars(("A", at(4, 21), 10), ("B", at(4, 11), 5), ("A", at(4, 26), 10))
    rig.bars(("A", at(4, 31), 10))

    assert accumulated(rig.so_far()) == {
        0: {"A": 100, "B": 0},
        4: {"A": 110, "B": 5},
        5: {"A": 120, "B": 5},
    }


def test_a_batch_of_a_fast_replay_covers_all_its_slots() -> None:
    """Minutes of the market in one batch, and the end of a gap."""
    rig = Recorded()
    rig.bars(("A", at(4, 1), 100), ("B", at(4, 6), 5), ("A", at(4, 11), 10), ("B", at(4, 21), 1))

    assert accumulated(rig.so_far()) == {
        0: {"A": 100, "B": 0},
        1: {"A": 100, "B": 5},
        2: {"A": 110, "B": 5},
    }


def test_a_slot_that_ended_in_an_outage_is_not_covered() -> None:
    """Part of its volume may be missing; from the next one on `av` holds it."""
    rig = Recorded()
    rig.recorder.missed = lambda ms: at(4, 3) <= ms <= at(4, 7)
    rig.bars(("A", at(4, 1), 100))
    rig.bars(("A", at(4, 7), 10))
    rig.bars(("A", at(4, 11), 10))

    assert list(accumulated(rig.so_far())) == [1]


def test_a_start_in_the_middle_covers_from_the_present_slot_on() -> None:
    """Started at 09:27: what a symbol traded before is in its `av`; one without a bar is not known."""
    rig = Recorded()
    rig.totals = {"A": 5_000, "B": 300}
    rig.bars(("A", at(9, 27), 10))
    rig.bars(("A", at(9, 31), 10))
    rig.bars(("B", at(9, 33), 1))
    rig.bars(("A", at(9, 36), 10))
    day = rig.so_far()

    assert not day.from_start
    assert accumulated(day) == {65: {"A": 5_010}, 66: {"A": 5_020, "B": 301}}
    history = run(summarize([day]))
    assert history.expected("B", 65) == (0, 0)
    assert history.expected("B", 66) == (301, 1)


def test_a_half_day_ends_at_17_and_counts_until_13() -> None:
    """156 slots, of which 108 count."""
    rig = Recorded()
    start = at(4, day=HALF_DAY)
    for slot in range(170):
        rig.bars(("A", start + slot * SLOT_MS, 1))
    rig.next_day((2024, 7, 5))
    (day,) = rig.ended()

    assert (day.slots, day.counted, day.covered) == (156, 108, 156)
    assert day.complete


def test_a_half_day_whose_last_slot_nothing_follows_is_complete_too() -> None:
    """Its end is at 17:00 as a whole day's is at 20:00."""
    rig = Recorded()
    start = at(4, day=HALF_DAY)
    for slot in range(156):
        rig.bars(("A", start + slot * SLOT_MS, 1))
    rig.recorder.end_day()

    assert rig.so_far().complete


@pytest.mark.parametrize("until", [150, SLOTS - 2])
def test_the_end_of_a_day_covers_no_slot_but_the_last(until: int) -> None:
    """A feed that fell silent in the afternoon, or before the last five minutes."""
    rig = Recorded()
    rig.every_slot("A", last=until)
    rig.recorder.end_day()
    rig.recorder.end_day()
    rig.next_day()

    (day,) = rig.ended()
    assert day.covered == until
    assert not day.complete


def test_the_end_of_a_day_is_told_once() -> None:
    """By the provider's time in the evening, then by the next day's first bars."""
    rig = Recorded()
    rig.every_slot("A")
    rig.recorder.end_day()
    rig.recorder.end_day()
    assert rig.so_far().complete
    rig.next_day()

    (day,) = rig.ended()
    assert [slot for slot, _ in day.known] == list(range(SLOTS))


def test_a_market_that_goes_back_in_time_begins_its_day_anew() -> None:
    """A replay in a loop: the first round is no day of its own."""
    rig = Recorded()
    rig.every_slot("A", last=20)
    rig.engine.rewind(START)
    rig.totals.clear()
    rig.every_slot("A", last=3, volume=7)

    assert rig.ended() == []
    assert accumulated(rig.so_far())[2] == {"A": 21}


def test_a_market_that_goes_back_to_an_older_day_forgets_the_history_of_its_future() -> None:
    """What is compared with are days before today, always."""
    rig = Recorded()
    rig.every_slot("A", last=3)
    history = run(summarize([DayVolumes(date(2024, 3, 1), SLOTS, SLOTS, [], [], {})]))
    rig.recorder.use(history)

    rig.next_day()
    assert rig.market.volume_history is history
    rig.engine.rewind(at(5, day=(2024, 3, 1)))

    assert rig.recorder.history.days == ()
    assert rig.recorder.history is rig.market.volume_history


def test_a_use_of_new_history_makes_rows_new() -> None:
    """Whoever caches rows by the market's revision must see it."""
    rig = Recorded()
    before = rig.market.revision
    rig.recorder.use(rig.recorder.history)

    assert rig.market.revision > before


def through_snapshot(records: list[Any]) -> list[Any]:
    """As the keeper writes and reads them."""
    result: list[Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(records))
    return result


def restarted(rig: Recorded) -> Recorded:
    """Another life of the process, from its snapshot."""
    again = Recorded()
    again.totals = dict(rig.totals)
    again.market.clock.set(rig.market.clock.now_ms)
    for analyzer, old in ((again.recorder, rig.recorder), (again.quote, rig.quote)):
        records = through_snapshot(list(old.dump()))
        if records:
            analyzer.hydrate(records)
    return again


def test_a_restart_within_a_slot_costs_nothing() -> None:
    """Symbols in another order than before, one of them new, all keep their volumes."""
    rig = Recorded()
    rig.bars(("B", at(4, 1), 10), ("A", at(4, 2), 100))
    rig.bars(("A", at(4, 6), 1), ("C", at(4, 6), 5))
    again = restarted(rig)
    again.bars(("D", at(4, 8), 7), ("A", at(4, 8), 1))
    again.bars(("B", at(4, 10), 7))

    day = again.so_far()
    assert day.from_start
    assert accumulated(day) == {
        0: {"B": 10, "A": 100, "C": 0},
        1: {"B": 10, "A": 102, "C": 5, "D": 7},
    }


def test_a_restart_over_the_end_of_a_slot_costs_that_slot() -> None:
    """Down from 04:06 to 04:12."""
    rig = Recorded()
    rig.bars(("A", at(4, 1), 100))
    rig.bars(("A", at(4, 6), 1))
    again = restarted(rig)
    again.totals["A"] += 50
    again.bars(("A", at(4, 12), 1))
    again.bars(("A", at(4, 16), 1))

    assert accumulated(again.so_far()) == {0: {"A": 100}, 2: {"A": 152}}


def test_what_ends_while_a_snapshot_is_written_is_whole_in_it() -> None:
    """The dump is made in steps, between which the market goes on."""
    rig = Recorded()
    rig.every_slot("A", last=30)
    steps = rig.recorder.dump()
    records = [next(steps)]
    for slot, symbol in ((31, "B"), (32, "A"), (33, "A")):
        rig.bars((symbol, START + slot * SLOT_MS, 1))
        rig.flush(rig.recorder)
        records.append(next(steps))
    rig.bars(("A", START + 34 * SLOT_MS, 1))
    records += list(steps)
    again = Recorded()
    again.market.clock.set(rig.market.clock.now_ms)
    again.recorder.hydrate(through_snapshot(records))

    day, whole = again.so_far(), rig.so_far()
    assert day.covered >= 32
    assert accumulated(day).items() <= accumulated(whole).items()


def test_a_snapshot_of_another_day_is_not_taken() -> None:
    """Nor one whose columns are not all there, nor an empty one."""
    rig = Recorded()
    rig.every_slot("A", last=20)
    records = through_snapshot(list(rig.recorder.dump()))
    for broken in (records, records[1:], records[:-1], []):
        again = Recorded()
        again.market.clock.set(at(4, day=NEXT_DAY if broken is records else DAY))
        again.recorder.hydrate(broken)
        assert again.recorder.so_far() is None
        assert again.recorder.covered == 0


def test_nothing_is_recorded_before_the_first_bar() -> None:
    """Nothing to dump, to write, or to end."""
    rig = Recorded()
    rig.recorder.end_day()

    assert list(rig.recorder.dump()) == []
    assert rig.recorder.so_far() is None
    assert rig.ended() == []
    assert rig.market.volume_history.expected("A", 3) == (0, 0)


_bar = st.tuples(st.sampled_from("ABCD"), st.integers(0, 16 * 3_600 - 1), st.integers(1, 1_000))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(_bar, min_size=1, max_size=60),
    st.lists(st.integers(1, 5), min_size=60, max_size=60),
)
def test_any_bars_in_any_batches_give_what_the_naive_model_gives(
    bars: list[tuple[str, int, int]], sizes: list[int]
) -> None:
    """Each slot with a bar, once it is over, holds the sum of the bars that start before its end."""
    bars = sorted(bars, key=lambda bar: bar[1])
    batches = []
    rest = bars
    for size in sizes:
        if rest:
            batches.append(rest[:size])
            rest = rest[size:]
    rig = Recorded()
    expected: dict[int, dict[str, int]] = {}
    for slot in {second // 300 for _, second, _ in bars}:
        end = (slot + 1) * 300
        crossing = next((n for n, batch in enumerate(batches) if batch[-1][1] >= end), None)
        if crossing is not None:
            table: dict[str, int] = {}
            for symbol, second, volume in [bar for batch in batches[: crossing + 1] for bar in batch]:
                table[symbol] = table.get(symbol, 0) + (volume if second < end else 0)
            expected[slot] = table
    for number, batch in enumerate(batches):
        if number == len(batches) // 2:
            rig.flush(rig.recorder)
        rig.bars(*[(symbol, START + second * 1_000, volume) for symbol, second, volume in batch])

    assert accumulated(rig.so_far()) == expected
