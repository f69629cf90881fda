"""Bars that were missed in an outage and fetched afterwards: true, and no news."""

from __future__ import annotations

from typing import Any

import msgspec

from mdp.events import Aggregate, MinuteAggregate

from .rig import Rig, at, bar


def fetched(
    symbol: str, start: int, close: float, *, high: float = 0, low: float = 0, **more: Any
) -> Aggregate:
    """A minute's bar as REST gives it: without the day's volume."""
    return MinuteAggregate(
        symbol=symbol,
        close=close,
        high=high or close,
        low=low or close,
        start_timestamp=start,
        end_timestamp=start + 60_000,
        open=close,
        **more,
    )


def noon() -> Rig:
    """A market at noon, with a symbol that has a range of 10 to 12, and listeners."""
    rig = Rig()
    rig.subscribe("daily_range_hod_alert")
    rig.subscribe("daily_range_lod_alert")
    rig.tick(at(12))
    rig.send(bar("AAA", at(12), 11, high=12, low=10, av=1_000, e=at(12, 0, 1)))
    rig.taken()
    return rig


def range_of(rig: Rig, symbol: str = "AAA") -> tuple[Any, Any]:
    """Of the regular session."""
    row = rig.get(f"daily_range:{symbol}")
    return row["regular_session_high"], row["regular_session_low"]


def test_an_old_high_is_repaired_and_not_announced() -> None:
    """A fetched bar widens the range; the next live bar breaks the repaired extreme or nothing."""
    rig = noon()
    rig.tick(at(12, 10))
    rig.engine.refill([fetched("AAA", at(12, 5), 14, high=15, low=9)])
    assert range_of(rig) == (15, 9)
    rig.send(bar("AAA", at(12, 10), 14))
    assert rig.taken() == []
    rig.send(bar("AAA", at(12, 10, 1), 16))
    ((feed, alert),) = rig.taken()
    assert (feed, alert["price"], alert["previous"]) == ("daily_range_hod_alert", 16, 15)


def test_what_is_newer_than_all_we_know_becomes_the_quote() -> None:
    """A symbol that was silent since the outage shows the price that it had at its end."""
    rig = noon()
    rig.tick(at(12, 10))
    rig.engine.refill([fetched("AAA", at(12, 5), 13, volume=50), fetched("AAA", at(12, 6), 14, volume=70)])
    row = rig.get("quote:AAA")
    assert (row["close"], row["start_timestamp"], row["accumulated_volume"]) == (14, at(12, 6), 1_120)
    assert row["pct_change_5m"] == (14 - 13) / 13 * 100


def test_what_is_older_moves_no_price_and_no_volume() -> None:
    """The stream went on before the answer came; its next bar brings the day's volume anyhow."""
    rig = noon()
    rig.tick(at(12, 10))
    rig.send(bar("AAA", at(12, 10), 11, av=2_000, e=at(12, 10, 1)))
    rig.engine.refill([fetched("AAA", at(12, 5), 13, volume=50), fetched("AAA", at(12, 10), 12, volume=70)])
    row = rig.get("quote:AAA")
    assert (row["close"], row["start_timestamp"], row["accumulated_volume"]) == (11, at(12, 10), 2_000)
    assert range_of(rig) == (13, 10)


def test_a_symbol_first_seen_in_the_outage() -> None:
    """It is there, with its range, and its first live bar is an ordinary one."""
    rig = noon()
    rig.engine.refill([fetched("NEW", at(11), 5, volume=10)])
    assert range_of(rig, "NEW") == (5, 5)
    assert rig.get("quote:NEW")["open"] == 5
    rig.send(bar("NEW", at(12), 6))
    ((feed, _),) = rig.taken()
    assert feed == "daily_range_hod_alert"


def test_the_outage_lasted_into_another_session() -> None:
    """Its first prints are no news, and the session before keeps its range."""
    rig = noon()
    rig.tick(at(16, 5))
    rig.engine.refill([fetched("AAA", at(16, 1), 20), fetched("AAA", at(16, 2), 19)])
    row = rig.get("daily_range:AAA")
    assert (row["regular_session_high"], row["after_hours_high"], row["after_hours_low"]) == (12, 20, 19)
    assert rig.taken() == []
    rig.send(bar("AAA", at(16, 5), 21))
    assert [alert["note"] for _, alert in rig.taken()] == ["Broke regular session high of $12.00"]


def test_bars_of_other_days_and_odd_symbols_are_refused() -> None:
    """Counted by reason, as live ones are."""
    rig = noon()
    before = dict(rig.market.refused)
    yesterday = at(12, day=(2024, 3, 4))
    rig.engine.refill([fetched("AAA", yesterday, 99), fetched("no symbol", at(11), 5)])
    assert range_of(rig) == (12, 10)
    after = rig.market.refused
    assert {
        reason: after[reason] - before[reason] for reason in after if after[reason] != before[reason]
    } == {
        "other_day": 1,
        "not_a_symbol": 1,
    }


def test_a_restart_keeps_what_was_repaired() -> None:
    """Snapshot and journal have the range; the next high is announced against it."""
    rig = noon()
    rig.engine.refill([fetched("AAA", at(12, 5), 14, high=15)])
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode([list(rig.quote.dump()), list(rig.range.dump())]))
    other = Rig()
    other.tick(at(12, 10))
    other.quote.hydrate(kept[0])
    other.range.hydrate(kept[1])
    assert range_of(other) == (15, 10)


def test_subscribers_of_all_hear_of_repairs() -> None:
    """Also of symbols that no live bar touched since."""
    rig = noon()
    rig.subscribe("quote:*")
    rig.taken()
    rig.engine.refill([fetched("AAA", at(11, 59), 11, high=30)])
    rig.flush(rig.quote)
    ((feed, row),) = rig.taken()
    assert (feed, row["close"]) == ("quote:AAA", 11)
