"""Volume by time of day against a naive model: which days count, and what is expected at a time."""

from __future__ import annotations

import sys
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp.analyzers.volume_history import (
    SLOT_MS,
    SLOTS,
    BadColumn,
    DayVolumes,
    VolumeHistory,
    pack_column,
    run,
    summarize,
    unpack_column,
)

FIRST = date(2024, 3, 4)


def day_of(
    volumes: dict[str, dict[int, float]],
    *,
    number: int = 0,
    covered: range | list[int] = range(SLOTS),
    slots: int = SLOTS,
    counted: int = SLOTS,
) -> DayVolumes:
    """A recorded day from symbol -> slot -> shares traded in that slot.

    A symbol is seen in the slot of its first volume; as in a recording, what was traded while nobody
    recorded is known with the next covered slot (`av` holds it).
    """
    first = {symbol: min(traded) for symbol, traded in volumes.items() if traded}
    symbols = sorted(first, key=lambda symbol: (first[symbol], symbol))
    known, columns = [], {}
    told = dict.fromkeys(symbols, 0.0)
    for slot in covered:
        seen = [symbol for symbol in symbols if first[symbol] <= slot]
        now = {symbol: sum(v for k, v in volumes[symbol].items() if k <= slot) for symbol in seen}
        changed = [i for i, symbol in enumerate(seen) if now[symbol] != told[symbol]]
        columns[slot] = pack_column(changed, [now[seen[i]] - told[seen[i]] for i in changed])
        told.update(now)
        known.append((slot, len(seen)))
    return DayVolumes(FIRST + timedelta(number), slots, counted, symbols, known, columns)


def test_the_mean_is_of_the_volume_accumulated_by_the_same_slot() -> None:
    """Two days, one symbol: 100 and 300 shares by 04:05, 150 and 300 by 09:35."""
    history = run(
        summarize([day_of({"A": {0: 100, 66: 50}}), day_of({"A": {0: 300}}, number=1)]),
    )

    assert history.expected("A", 0) == (200, 2)
    assert history.expected("A", 65) == (200, 2)
    assert history.expected("A", 66) == (225, 2)
    assert history.expected("A", SLOTS - 1) == (225, 2)
    assert history.days == (FIRST, FIRST + timedelta(1))
    assert len(history) == 1


def test_between_the_ends_of_slots_the_mean_is_interpolated() -> None:
    """04:00 is 0 shares; the end of a slot is the slot's mean; half way is half way."""
    history = run(summarize([day_of({"A": {0: 100, 1: 60}})]))

    assert history.expected_at("A", 0) == (0, 1)
    assert history.expected_at("A", SLOT_MS / 4) == (25, 1)
    assert history.expected_at("A", SLOT_MS) == (100, 1)
    assert history.expected_at("A", 1.5 * SLOT_MS) == (130, 1)
    assert history.expected_at("A", 2 * SLOT_MS) == (160, 1)


@pytest.mark.parametrize("ms", [SLOTS * SLOT_MS - 1, SLOTS * SLOT_MS, 23 * 3_600_000, 80 * 3_600_000])
def test_after_the_last_slot_the_whole_day_is_expected(ms: float) -> None:
    """The closed hours of a trading day, over a weekend too, belong to its end."""
    history = run(summarize([day_of({"A": {191: 1e6}})]))

    mean, days = history.expected_at("A", ms)

    assert mean == pytest.approx(1e6, rel=1e-5)
    assert days == 1
    assert history.expected("A", int(ms // SLOT_MS)) == (1e6, 1)


def test_nothing_is_expected_of_what_is_not_known() -> None:
    """An empty history, an unknown symbol, a time before 04:00."""
    history = run(summarize([day_of({"A": {0: 100}})]))

    for known_nothing in (VolumeHistory(), run(summarize([])), run(summarize([day_of({})]))):
        assert known_nothing.expected("A", 3) == (0, 0)
        assert known_nothing.expected_at("A", 3) == (0, 0)
        assert len(known_nothing) == 0
    assert history.expected("B", 3) == (0, 0)
    assert history.expected("A", -1) == (0, 0)
    assert history.expected_at("A", -1) == (0, 0)


def test_a_day_without_a_trade_counts_as_zero_once_the_symbol_was_seen() -> None:
    """Days before its first one do not: a younger listing has fewer days, not smaller volumes."""
    days = [
        day_of({"OLD": {0: 10}}, number=0),
        day_of({"OLD": {0: 10}, "NEW": {1: 90}}, number=1),
        day_of({"OLD": {0: 10}}, number=2),
    ]
    history = run(summarize(days))

    assert history.expected("OLD", 5) == (10, 3)
    assert history.expected("NEW", 0) == (0, 2)
    assert history.expected("NEW", 5) == (45, 2)


def test_a_half_day_counts_until_its_close() -> None:
    """By 13:00 both days count, from the slot after it on the whole one alone."""
    half = day_of({"A": {0: 100, 130: 7}}, covered=range(156), slots=156, counted=108)
    whole = day_of({"A": {0: 300, 120: 500}}, number=1)
    history = run(summarize([half, whole]))

    assert half.complete
    assert history.expected("A", 107) == (200, 2)
    assert history.expected("A", 108) == (300, 1)
    assert history.expected("A", 130) == (800, 1)
    assert history.expected_at("A", 108.5 * SLOT_MS) == (200, 2), "no line between means of other days"
    assert history.expected_at("A", 109.5 * SLOT_MS) == (300, 1)


def test_a_gap_costs_its_slots_only() -> None:
    """What was traded meanwhile is in the accumulated volume of the slots after it."""
    gap = [slot for slot in range(SLOTS) if not 10 <= slot < 20]
    history = run(
        summarize([day_of({"A": {0: 100, 12: 50, 20: 1}}, covered=gap), day_of({"A": {0: 200}}, number=1)])
    )

    assert history.expected("A", 9) == (150, 2)
    assert history.expected("A", 10) == (200, 1)
    assert history.expected("A", 19) == (200, 1)
    assert history.expected("A", 20) == (175.5, 2)
    assert history.expected_at("A", 10.5 * SLOT_MS) == (150, 2), "the end that rests on more days"
    assert history.expected_at("A", 11.5 * SLOT_MS) == (200, 1)
    assert history.expected_at("A", 20.5 * SLOT_MS) == (175.5, 2)


def test_of_a_record_that_began_late_a_symbol_is_known_from_its_first_bar_on() -> None:
    """Recorded from 09:25: B, first seen at 09:40, may have traded before; C, not seen, may have too."""
    late = day_of({"A": {3: 1_000, 65: 10}, "B": {68: 80}}, number=1, covered=range(65, SLOTS))
    history = run(summarize([day_of({"A": {0: 2_000}, "B": {0: 40}, "C": {0: 6}}), late]))

    assert not late.from_start
    assert not late.complete
    assert history.expected("A", 64) == (2_000, 1)
    assert history.expected("A", 65) == (1_505, 2)
    assert history.expected("B", 67) == (40, 1)
    assert history.expected("B", 68) == (60, 2)
    assert history.expected("C", 100) == (6, 1)


def test_no_interpolation_from_what_is_not_known() -> None:
    """Nothing is recorded before 09:25: at 09:27 nothing is expected, at 09:30 the mean is."""
    history = run(summarize([day_of({"A": {65: 10, 66: 10}}, covered=range(65, SLOTS))]))

    assert history.expected_at("A", 65.4 * SLOT_MS) == (0, 0)
    assert history.expected_at("A", 66 * SLOT_MS) == (10, 1)


_volume = st.one_of(st.integers(1, 10**9), st.floats(0.001, 1e6, allow_nan=False))
_traded = st.dictionaries(
    st.sampled_from("ABCDE"), st.dictionaries(st.integers(0, SLOTS - 1), _volume, max_size=6)
)
_covered = st.one_of(
    st.just(list(range(SLOTS))),
    st.sets(st.integers(0, SLOTS - 1), max_size=8).map(sorted),
    st.sets(st.integers(0, SLOTS - 1), max_size=8).map(lambda gone: sorted(set(range(SLOTS)) - gone)),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_traded, _covered, st.sampled_from([SLOTS, 108])), max_size=5))
def test_any_days_give_what_the_naive_model_gives(
    recorded: list[tuple[dict[str, dict[int, float]], list[int], int]],
) -> None:
    """Means of lists, day by day and slot by slot, against sums of packed columns."""
    days = [
        day_of(traded, number=number, covered=covered, counted=counted)
        for number, (traded, covered, counted) in enumerate(recorded)
    ]
    history = run(summarize(days))

    for symbol in "ABCDE":
        for slot in {0, 1, 7, 64, 107, 108, 150, SLOTS - 1, *(s for _, c, _ in recorded for s in c[:3])}:
            found = []
            seen = False
            for traded, covered, counted in recorded:
                mine = traded.get(symbol) or {}
                seen = seen or bool(mine)
                if not seen or slot not in covered or slot >= counted:
                    continue
                if 0 not in covered and not any(k <= slot for k in mine):
                    continue
                found.append(sum(volume for k, volume in mine.items() if k <= slot))
            mean, count = history.expected(symbol, slot)
            assert count == len(found)
            assert mean == pytest.approx(sum(found) / len(found) if found else 0, rel=1e-6, abs=1e-3)


def test_a_column_survives_packing() -> None:
    """Whole numbers stay whole, fractions exact."""
    assert unpack_column(pack_column([0, 7], [10**9, 0.1])) == ([0, 7], [10**9, 0.1])


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"nonsense",
        pack_column([1, 2], [3]),
        pack_column([-1], [3]),
        pack_column([0], ["many"]),  # type: ignore[list-item]
        pack_column([0], [1])[:-3],
    ],
)
def test_a_damaged_column_is_refused(packed: bytes) -> None:
    """With one kind of error, whatever is wrong."""
    with pytest.raises(BadColumn):
        unpack_column(packed)


def test_a_column_that_unpacks_to_gigabytes_is_refused() -> None:
    """Reading stops at a bound, so that a forged file does not fill the memory."""
    import zlib

    with pytest.raises(BadColumn, match="too long"):
        unpack_column(zlib.compress(bytes(16_000_000)))


def test_a_volume_of_no_symbol_is_refused() -> None:
    """It would be added to somebody else's."""
    day = day_of({"A": {0: 1}})
    day.columns[0] = pack_column([1], [5])

    with pytest.raises(BadColumn, match="no symbol"):
        run(summarize([day]))


@pytest.mark.parametrize(
    ("known", "symbols"),
    [
        ([(1, 1), (0, 1)], ["A"]),
        ([(0, 1), (0, 1)], ["A"]),
        ([(0, 2)], ["A"]),
        ([(0, 1), (1, 0)], ["A"]),
        ([(160, 1)], ["A"]),
        ([(0, 2)], ["A", "A"]),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(
    known: list[tuple[int, int]], symbols: list[str]
) -> None:
    """Slots out of order or twice, more symbols than there are, fewer than before, beyond the session."""
    day = DayVolumes(FIRST, 156, 108, symbols, known, {slot: pack_column([], []) for slot, _ in known})

    with pytest.raises(BadColumn):
        day.check()
    day_of({"A": {0: 1}}).check()


def test_a_table_of_the_whole_market_stays_under_12_megabytes() -> None:
    """11,000 symbols: four bytes a slot, counts that are equal kept once."""
    volumes: dict[str, dict[int, float]] = {f"S{i}": {i % SLOTS: i + 1.0} for i in range(11_000)}
    symbols = list(volumes)
    day = DayVolumes(
        FIRST, SLOTS, SLOTS, symbols, [(slot, len(symbols)) for slot in range(SLOTS)],
        {slot: pack_column([slot], [1]) for slot in range(SLOTS)},
    )  # fmt: skip
    history = run(summarize([day]))

    unique = {id(count): sys.getsizeof(count) for count in history._counts}
    held = (
        sum(sys.getsizeof(column) for column in history._columns)
        + sum(unique.values())
        + sys.getsizeof(history._counts)
        + sys.getsizeof(history._index)
        + sum(sys.getsizeof(symbol) + 32 for symbol in history._index)
    )
    assert held < 12_000_000
    assert len(unique) == 1
