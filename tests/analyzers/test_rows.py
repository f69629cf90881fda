"""The enriched quote's numbers beyond the bar: price changes, distances, trades, and how far to trust it."""

from __future__ import annotations

from typing import Any

import pytest

from mdp.analyzers.state import NoReference

from .rig import Rig, at, bar


class Usual:
    """Stands for a history of volumes."""

    def __init__(self, days: int) -> None:
        self.days = days
        self.asked: list[tuple[str, float]] = []

    def expected_at(self, symbol: str, ms: float) -> tuple[float, int]:
        """Fifty shares a millisecond of the day."""
        self.asked.append((symbol, ms))
        return (ms / 50, self.days) if self.days else (0, 0)


def noon() -> Rig:
    """A market at noon."""
    rig = Rig()
    rig.tick(at(12))
    return rig


def test_price_changes_over_minutes() -> None:
    """Each from the newest bar of that time, 0 where there was none yet."""
    rig = noon()
    for minute, close in ((0, 10), (10, 20), (24, 30), (29, 40)):
        rig.tick(at(12, minute))
        rig.send(bar("AAA", at(12, minute), close))
    row = rig.get("quote:AAA")
    shown = [row[f"pct_change_{minutes}m"] for minutes in (1, 5, 15, 30)]
    assert shown == [pytest.approx(100 / 3), pytest.approx(100 / 3), 100, 0]
    rig.tick(at(12, 30))
    row = rig.get("quote:AAA")
    assert row["pct_change_1m"] == 0, "a minute ago it was what it is now"
    assert row["pct_change_30m"] == 300


def test_late_bars_and_other_symbols_change_no_price_of_the_past() -> None:
    """A bar older than its symbol's newest moves no close, of now or of then."""
    rig = noon()
    rig.send(bar("AAA", at(12), 10), bar("BBB", at(12), 99))
    rig.tick(at(12, 10))
    rig.send(bar("AAA", at(12, 10), 20), bar("BBB", at(12, 10), 1))
    rig.send(bar("AAA", at(12, 5), 50))
    rig.send(bar("AAA", at(12, 11), 20))
    row = rig.get("quote:AAA")
    assert [row[f"pct_change_{minutes}m"] for minutes in (1, 5, 15)] == [0, 100, 0]


def test_a_corrected_bar_counts_as_corrected() -> None:
    """The newest bar sent again replaces the price that is looked back at later."""
    rig = noon()
    rig.send(bar("AAA", at(12), 10))
    rig.send(bar("AAA", at(12), 16))
    rig.send(bar("AAA", at(12, 1), 24))
    assert rig.get("quote:AAA")["pct_change_1m"] == 50


def test_minutes_go_on_over_the_open_and_end_with_the_day() -> None:
    """09:30 resets opens, not the last minutes' prices; 04:00 does."""
    rig = Rig()
    rig.tick(at(9, 28))
    rig.send(bar("AAA", at(9, 28), 10))
    rig.tick(at(9, 30))
    rig.send(bar("AAA", at(9, 30), 15))
    assert rig.get("quote:AAA")["pct_change_1m"] == 50
    morning = at(4, day=(2024, 3, 6))
    rig.tick(morning)
    rig.send(bar("AAA", morning, 30))
    row = rig.get("quote:AAA")
    assert [row[f"pct_change_{minutes}m"] for minutes in (1, 5, 15, 30)] == [0, 0, 0, 0]


def test_distances_from_vwap_and_from_the_days_high() -> None:
    """In percent; the high is the trading day's, of all sessions; 0 where the wire has no VWAP."""
    rig = Rig()
    rig.tick(at(8))
    rig.send(bar("AAA", at(8), 20, a=16))
    assert rig.get("quote:AAA")["pct_from_vwap"] == 25
    rig.tick(at(12))
    rig.send(bar("AAA", at(12), 15))
    row = rig.get("quote:AAA")
    assert (row["pct_from_vwap"], row["pct_from_day_high"]) == (0, -25)
    rig.send(bar("AAA", at(12, 1), 25, high=30))
    assert rig.get("quote:AAA")["pct_from_day_high"] == pytest.approx(-100 / 6)


def test_volume_by_the_time_of_day() -> None:
    """Against the mean of earlier days up to now, with how many they were; 0 and 0 without a history."""
    rig = noon()
    rig.send(bar("AAA", at(12), 10, av=1_152_000))
    row = rig.get("quote:AAA")
    assert (row["relative_volume_at_time"], row["relative_volume_at_time_days"]) == (0, 0)
    rig.market.volume_history = Usual(7)
    row = rig.get("quote:AAA")
    assert (row["relative_volume_at_time"], row["relative_volume_at_time_days"]) == (2, 7)
    assert rig.market.volume_history.asked == [("AAA", 8 * 3_600_000)]
    rig.market.volume_history = Usual(0)
    assert rig.get("quote:AAA")["relative_volume_at_time"] == 0


def test_a_loss_makes_quotes_stale_until_their_next_bar() -> None:
    """Of all symbols where nobody knows whose data was lost, else of those alone; subscribers hear of it."""
    rig = noon()
    rig.subscribe("quote:*")
    rig.send(bar("AAA", at(12), 10), bar("BBB", at(12), 10))
    rig.taken()
    rig.market.lose(["AAA"])
    assert (rig.get("quote:AAA")["stale"], rig.get("quote:BBB")["stale"]) == (True, False)
    rig.send(bar("AAA", at(12, 0, 1), 10))
    assert not rig.get("quote:AAA")["stale"]
    rig.market.lose()
    assert [rig.get(f"quote:{name}")["stale"] for name in ("AAA", "BBB")] == [True, True]
    rig.taken()
    rig.send(bar("AAA", at(12, 0, 2), 10))
    assert {feed: row["stale"] for feed, row in rig.taken()} == {"quote:AAA": False, "quote:BBB": True}


def test_yesterdays_losses_are_yesterdays() -> None:
    """At 04:00 nothing is stale."""
    rig = noon()
    rig.send(bar("AAA", at(12), 10))
    rig.market.lose()
    morning = at(4, day=(2024, 3, 6))
    rig.tick(morning)
    rig.send(bar("AAA", morning, 10))
    assert not rig.get("quote:AAA")["stale"]


def test_how_old_a_quote_is() -> None:
    """`updated_ts` is the end of its newest bar; its start where the wire has no end."""
    rig = noon()
    rig.send(bar("AAA", at(12), 10, e=at(12, 0, 1)), bar("BBB", at(12), 10, e=None))
    assert rig.get("quote:AAA")["updated_ts"] == at(12, 0, 1)
    assert rig.get("quote:BBB")["updated_ts"] == at(12)


def test_what_is_still_to_come_is_named() -> None:
    """A symbol that the reference cache does not know yet says which of its zeros are no answers."""
    rig = noon()
    rig.market.unreferenced = NoReference(pending=("prev_day_close", "avg_volume"))
    rig.send(bar("AAA", at(12), 10))
    assert list(rig.get("quote:AAA")["pending"]) == ["prev_day_close", "avg_volume"]
    rig.market.refer({"AAA": NoReference(prev_day_close=8, pending=("avg_volume",))})
    row: dict[str, Any] = rig.get("quote:AAA")
    assert (list(row["pending"]), row["pct_change"]) == (["avg_volume"], 25)


def test_a_stray_bar_of_a_later_time_costs_nothing_but_itself() -> None:
    """Not the symbol's history, range, volume or open; it counts if the market ever gets there."""
    rig, clean = noon(), noon()
    for one in (rig, clean):
        for minute in range(5):
            one.tick(at(12, minute))
            one.send(*[bar(name, at(12, minute), 10 + minute, av=100 * (minute + 1)) for name in "XY"])
    rig.send(bar("X", at(15), 99, av=9_999))
    for one in (rig, clean):
        one.tick(at(12, 5))
        one.send(*[bar(name, at(12, 5), 20, av=700) for name in "XY"])
    assert rig.get("quote:X") == clean.get("quote:X")
    assert rig.get("daily_range:X") == clean.get("daily_range:X")
    rig.tick(at(15))
    rig.send(bar("Y", at(15), 20, av=800))
    assert (rig.get("quote:X")["close"], rig.get("quote:X")["accumulated_volume"]) == (99, 9_999)


def test_a_late_bar_is_late_also_while_the_clock_waits() -> None:
    """Of a feed of one symbol after a pause: its bars wait, and are taken in their order."""
    rig = Rig()
    rig.tick(at(4))
    rig.subscribe("daily_range_hod_alert")
    rig.send(bar("AAA", at(4), 10), bar("AAA", at(4, 0, 1), 11))
    for start in (at(4, 5), at(4, 4), at(4, 6), at(4, 7), at(4, 8), at(4, 9)):
        rig.send(bar("AAA", start, start % 7 + 20))
    assert rig.get("quote:AAA")["start_timestamp"] == at(4, 9)
    starts = [alert["start_timestamp"] for _, alert in rig.taken()]
    assert starts == sorted(starts)
    assert at(4, 4) not in starts


def test_bars_that_wait_are_bounded() -> None:
    """The oldest are dropped and counted."""
    rig = noon()
    for second in range(1_010):
        rig.send(bar("AAA", at(15) - second, 10))
    assert rig.market.refused["ahead_of_clock"] == 10
    assert rig.get("quote:AAA") is None
