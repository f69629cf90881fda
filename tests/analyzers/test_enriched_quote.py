"""The enriched quote: single rules, each where it shows best."""

from __future__ import annotations

import json

import msgspec
import pytest

from mdp.analyzers.state import NoReference

from .rig import Rig, at, bar

FIELDS = [
    "symbol",
    "volume",
    "free_float",
    "accumulated_volume",
    "relative_volume",
    "official_open_price",
    "vwap",
    "open",
    "close",
    "high",
    "low",
    "aggregate_vwap",
    "average_size",
    "avg_volume",
    "prev_day_close",
    "prev_day_open",
    "prev_day_high",
    "prev_day_low",
    "prev_day_volume",
    "prev_day_vwap",
    "change",
    "pct_change",
    "change_since_open",
    "pct_change_since_open",
    "start_timestamp",
    "end_timestamp",
]


def rig_at(ms: int) -> Rig:
    """A pipeline whose market clock shows a time."""
    rig = Rig()
    rig.tick(ms)
    return rig


def test_the_fields_are_the_contracts_in_rows_and_boards() -> None:
    """None is missing; a board's row has its rank besides."""
    rig = rig_at(at(12))
    rig.send(bar("AAA", at(12), 10, av=5))
    assert set(FIELDS) <= set(rig.get("quote:AAA"))
    assert {*FIELDS, "rank"} <= set(rig.get("scanners:top_volume")[0])


def test_missing_references_are_zero_and_nothing_is_nan() -> None:
    """Also where the open is zero."""
    rig = rig_at(at(12))
    rig.send(bar("AAA", at(12), 10, o=0))
    row = rig.get("quote:AAA")
    for name in FIELDS:
        if (
            name.startswith("prev_")
            or "change" in name
            or name in ("free_float", "avg_volume", "relative_volume")
        ):
            assert row[name] == 0, name
    assert None not in [row[name] for name in FIELDS]


def test_references_that_come_late_count_at_once() -> None:
    """The quote and the boards show them without another bar."""
    rig = rig_at(at(12))
    rig.send(bar("AAA", at(12), 11, av=600))
    assert rig.get("scanners:top_gappers") == []
    rig.market.refer({"AAA": NoReference(prev_day_close=10, avg_volume=300, avg_volume_days=12)})
    row = rig.get("scanners:top_gappers")[0]
    assert (row["change"], row["relative_volume"], row["avg_volume_days"]) == (1, 2, 12)
    assert row["pct_change"] == pytest.approx(10)


@pytest.mark.parametrize("pattern", ["quote:*", "quote:AAA"])
def test_late_references_are_published_of_those_whose_they_are(pattern: str) -> None:
    """Each batch of latecomers once made every symbol's quote news: a market's worth of messages a second."""
    rig = rig_at(at(12))
    rig.subscribe(pattern)
    rig.send(bar("AAA", at(12), 11), bar("BBB", at(12), 12))
    assert "quote:AAA" in [feed for feed, _ in rig.taken()]
    rig.market.refer({"AAA": NoReference(prev_day_close=10)})
    rig.flush(rig.quote)
    assert [(feed, row["change"]) for feed, row in rig.taken()] == [("quote:AAA", 1)]
    rig.market.refer({"BBB": NoReference(prev_day_close=10)})
    rig.flush(rig.quote)
    assert [feed for feed, _ in rig.taken()] == ["quote:BBB"] * (pattern == "quote:*")
    rig.market.refer({"AAA": NoReference(prev_day_close=10), "NEW": NoReference(prev_day_close=5)})
    rig.flush(rig.quote)
    assert rig.taken() == []


def test_the_official_open_replaces_the_first_bars_as_soon_as_it_is_sent() -> None:
    """From then on, for the change since open as well."""
    rig = rig_at(at(9, 30))
    rig.send(bar("AAA", at(9, 30), 12, o=10))
    rig.send(bar("AAA", at(9, 30, 1), 12, o=11))
    assert rig.get("quote:AAA")["open"] == 10
    rig.send(bar("AAA", at(9, 30, 2), 12, o=11, op=8))
    row = rig.get("quote:AAA")
    assert (row["open"], row["official_open_price"], row["change_since_open"]) == (8, 8, 4)
    assert row["pct_change_since_open"] == pytest.approx(50)


@pytest.mark.parametrize("together", [True, False])
def test_the_open_is_learned_across_half_past_nine(together: bool) -> None:
    """Bars of both sides in one batch; or bars of 09:29 after trades of 09:30 moved the clock."""
    rig = rig_at(at(9, 29, 30))
    first, second = bar("AAA", at(9, 29, 58), 10), bar("AAA", at(9, 30), 12, o=11)
    if together:
        rig.send(first, second)
    else:
        rig.tick(at(9, 30))
        rig.send(first)
        assert rig.get("quote:AAA")["open"] == 0
        rig.send(second)
    assert rig.get("quote:AAA")["open"] == 11


def test_the_first_pre_market_print_is_the_open_before_half_past_nine() -> None:
    """And none of the bars after it."""
    rig = rig_at(at(4))
    rig.send(bar("AAA", at(4), 10), bar("AAA", at(4, 0, 1), 11))
    row = rig.get("quote:AAA")
    assert (row["open"], row["change_since_open"], row["official_open_price"]) == (10, 1, 0)


def test_a_late_bar_adds_volume_alone() -> None:
    """No close, no timestamp, no open; with the day's sum on the wire, and where we sum up."""
    rig = rig_at(at(12))
    rig.send(bar("AAA", at(12), 10, av=500), bar("BBB", at(12), 10, v=500))
    before = rig.get("quote:AAA")
    rig.send(
        bar("AAA", at(11, 59), 99, av=700), bar("AAA", at(11, 58), 1, av=600), bar("BBB", at(11, 59), 9, v=7)
    )
    after = before | {"accumulated_volume": 700, "pct_from_day_high": (10 - 99) / 99 * 100}
    assert rig.get("quote:AAA") == after
    assert rig.get("quote:BBB")["accumulated_volume"] == 507
    assert rig.get("quote:BBB")["close"] == 10


def test_the_newest_bar_sent_again_replaces_itself() -> None:
    """Every field of the bar; but the day's accumulated volume never goes back."""
    rig = rig_at(at(12))
    rig.send(bar("AAA", at(12), 10, av=500, v=50, a=9.5), bar("BBB", at(12), 10, v=50))
    rig.send(bar("AAA", at(12), 11, av=480, v=30), bar("BBB", at(12), 11, v=30))
    row = rig.get("quote:AAA")
    assert (row["close"], row["volume"], row["accumulated_volume"], row["aggregate_vwap"]) == (11, 30, 500, 0)
    assert rig.get("quote:BBB")["accumulated_volume"] == 50
    rig.send(bar("BBB", at(11), 9, v=5), bar("BBB", at(12), 11, v=40))
    assert rig.get("quote:BBB")["accumulated_volume"] == 55
    rig.send(bar("AAA", at(12), 11, av=520), bar("BBB", at(12), 11, v=60))
    assert rig.get("quote:AAA")["accumulated_volume"] == 520
    assert rig.get("quote:BBB")["accumulated_volume"] == 65


def test_seconds_win_over_minutes() -> None:
    """Minutes feed the row until the first second bar, and never again that day."""
    rig = rig_at(at(12))
    rig.send(bar("AAA", at(12), 10, ev="AM", av=100))
    assert rig.get("quote:AAA")["close"] == 10
    rig.send(bar("AAA", at(12, 0, 30), 11, av=200))
    rig.send(bar("AAA", at(12, 1), 12, ev="AM", av=900))
    row = rig.get("quote:AAA")
    assert (row["close"], row["accumulated_volume"]) == (11, 200)


def test_numbers_keep_their_form() -> None:
    """In rows as in raw feeds, where they are the wire's."""
    rig = rig_at(at(12))
    rig.send(bar("AAA", at(12), 10.0, high=11, av=100.0, z=12.0))
    row = rig.get("quote:AAA")
    shown = [json.dumps(row[name]) for name in ("close", "high", "accumulated_volume", "average_size")]
    assert shown == ["10.0", "11", "100.0", "12.0"]


def test_who_is_not_admitted() -> None:
    """Over the counter (unless wanted), another day's bars, what is no symbol, and too many; counted."""
    rig = Rig(max_symbols=1)
    rig.tick(at(12))
    bars = [
        bar("OTC", at(12), 1, otc=True),
        bar("OLD", at(12) - 86_400_000, 1),
        bar("A B", at(12), 1),
        bar("AAA", at(12), 1, otc=False),
        bar("BBB", at(12), 1),
    ]
    rig.send(*bars)
    assert list(rig.market.symbols) == ["AAA"]
    refused = {name: count for name, count in rig.market.refused.items() if count}
    assert refused == {"other_day": 1, "otc": 1, "not_a_symbol": 1, "too_many_symbols": 1}
    willing = Rig(include_otc=True)
    willing.tick(at(12))
    willing.send(*bars)
    assert set(willing.market.symbols) == {"OTC", "AAA", "BBB"}


def test_a_stray_bar_of_the_future_does_not_hold_the_quote() -> None:
    """It moves no clock, and the next bar of the market's time is the newest again."""
    rig = rig_at(at(12))
    rig.send(bar("AAA", at(12), 10))
    rig.send(bar("AAA", at(15), 99))
    rig.send(bar("AAA", at(12, 0, 1), 11))
    assert rig.market.clock.now_ms == at(12, 0, 1)
    assert (rig.get("quote:AAA")["close"], rig.get("quote:AAA")["start_timestamp"]) == (11, at(12, 0, 1))


def test_four_o_clock_forgets_the_day() -> None:
    """Quotes, volumes and opens; a bar of yesterday that comes later changes nothing."""
    rig = rig_at(at(19))
    rig.send(bar("AAA", at(19), 10, av=500))
    tomorrow = at(4, day=(2024, 3, 6))
    rig.tick(tomorrow)
    assert rig.get("quote:AAA") is None
    rig.send(bar("AAA", at(19, 59), 10, av=900))
    assert rig.get("quote:AAA") is None
    rig.send(bar("AAA", tomorrow, 12, av=3))
    row = rig.get("quote:AAA")
    assert (row["accumulated_volume"], row["open"]) == (3, 12)


def test_a_dump_taken_back_gives_the_same_quotes() -> None:
    """Rows, and what further bars make of them."""
    rig = rig_at(at(9, 29))
    rig.send(bar("AAA", at(9, 29), 10, av=5), bar("BBB", at(9, 29), 10, v=5, ev="AM"))
    other = rig_at(at(9, 29))
    other.quote.hydrate(msgspec.msgpack.decode(msgspec.msgpack.encode(list(rig.quote.dump()))))
    for symbol in ("AAA", "BBB"):
        assert other.get(f"quote:{symbol}") == rig.get(f"quote:{symbol}")
    for one in (rig, other):
        one.tick(at(9, 30))
        one.send(bar("AAA", at(9, 30), 12, o=11, av=9), bar("BBB", at(9, 30), 12, v=7, ev="AM"))
    assert other.get("scanners:top_gainers") == rig.get("scanners:top_gainers") != []
