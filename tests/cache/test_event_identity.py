"""Which events are the same one told twice."""

from __future__ import annotations

import msgspec

from mdp.analyzers.daily_range import Alert
from mdp.analyzers.halt_state import HaltEvent
from mdp.cache.event_identity import identity


def body(**fields: object) -> bytes:
    return msgspec.json.encode(fields)


def test_an_alert_is_its_extreme() -> None:
    """Numbers of the quote at that moment may differ after a replay; another price is another alert."""
    one = {"symbol": "A", "session": "regular", "direction": "high", "price": 2, "timestamp": 5.0}
    feed = "daily_range_hod_alert"
    assert identity(feed, body(**one, trade_count=1)) == identity(feed, body(**one, trade_count=2))
    for changed in ({"price": 3}, {"symbol": "B"}, {"direction": "low"}, {"timestamp": 6.0}):
        assert identity(feed, body(**one)) != identity(feed, body(**{**one, **changed}))


def test_a_halt_is_its_beginning_or_end() -> None:
    """The same halt told later shows other prices and durations."""
    one = {"symbol": "A", "event": "halted", "halt_timestamp": 5, "resume_timestamp": None}
    assert identity("halts", body(**one, halted_ms=1)) == identity("halts", body(**one, halted_ms=2))
    assert identity("halts", body(**one)) != identity("halts", body(**{**one, "event": "resumed"}))
    assert identity("halts", body(**one)) != identity("halts", body(**{**one, "halt_timestamp": 6}))


def test_other_events_are_all_that_they_say() -> None:
    """Nobody knows which of their fields may differ."""
    assert identity("alerts", body(rule=1)) == identity("alerts", body(rule=1))
    assert identity("alerts", body(rule=1)) != identity("alerts", body(rule=1, price=2))


def test_the_fields_exist() -> None:
    """A field that was renamed would make all events of a feed one."""
    assert {"symbol", "session", "direction", "price", "timestamp"} <= set(Alert.__struct_fields__)
    assert {"symbol", "event", "halt_timestamp", "resume_timestamp"} <= set(HaltEvent.__struct_fields__)
