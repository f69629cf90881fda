"""Prices some minutes ago: against a plain list of all bars."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from mdp.analyzers import price_history
from mdp.analyzers.price_history import SLOT_MS, ago, pack, slot_end, unpack, write_down

T0 = 1_709_650_800_000
gaps = st.one_of(st.integers(1, 20_000), st.integers(1, 3_600_000))


@given(st.lists(st.tuples(gaps, st.integers(1, 1_000)), min_size=1, max_size=60), st.integers(0, 4_000_000))
def test_the_price_of_the_newest_bar_of_then(steps: list[tuple[int, int]], later: int) -> None:
    """The close of the newest bar that starts in the quarter N minutes before now's, or earlier."""
    bars: list[tuple[int, int]] = []
    closes = None
    start = T0
    for gap, close in steps:
        if bars:
            closes = write_down(closes, bars[-1][0], bars[-1][1], start + gap)
        start += gap
        bars.append((start, close))
    now = start + later
    expected = []
    for minutes in price_history.MINUTES:
        end = slot_end(now - minutes * 60_000)
        expected.append(next((close for at, close in reversed(bars) if at < end), 0))
    assert ago(closes, *bars[-1], now) == tuple(expected)
    assert ago(unpack(pack(closes)), *bars[-1], now) == tuple(expected)


def test_memory_is_bounded() -> None:
    """Half an hour of quarters of a minute, however long the day."""
    closes = None
    for minute in range(1_000):
        closes = write_down(closes, T0 + minute * 60_000, 5.0, T0 + (minute + 1) * 60_000)
    assert closes is not None
    assert len(closes) == 120
    assert len(pack(closes)) == 960


def test_bars_of_one_quarter_write_nothing_down() -> None:
    """Only the last of them counts, and it is not yet known."""
    assert write_down(None, T0, 5, T0 + SLOT_MS - 1) is None
    assert slot_end(T0) == T0 + SLOT_MS
    assert slot_end(T0 + SLOT_MS - 1) == T0 + SLOT_MS


def test_what_no_pack_gave_is_no_history() -> None:
    """A snapshot of another version costs the history and nothing else."""
    assert unpack(b"") is None
    assert unpack(b"12345678") is None
    assert pack(None) == b""
    assert unpack(pack(array("d", [1.0] * 120))) == array("d", [1.0] * 120)
