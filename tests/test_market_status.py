"""The feed `market:status`: what it says, once a second, also while nothing happens."""

from __future__ import annotations

import asyncio
from datetime import date, datetime
from typing import Any

import pytest

import mdp.market_status as module
from mdp.analyzers.state import Market
from mdp.cache.base import Message
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.exchange_calendar import ExchangeCalendar, SpecialDay
from mdp.market_status import MarketStatusFeed
from mdp.sessions import NEW_YORK

OPEN = 1_773_149_400_000  # 2026-03-10 09:30 New York


class Bench:
    """The stage with everything it asks for in plain variables."""

    def __init__(self) -> None:
        self.bus = MemoryBus(epoch=1)
        self.cache = MemoryCache(self.bus)
        self.market = Market()
        self.processed = 0
        self.lag: float | None = None
        self.warming_up = True
        self.feed: dict[str, Any] = {"feed_state": "live", "feed_detail": "", "feed_since": 5, "gaps": 2}
        self.stage = MarketStatusFeed(
            self.market,
            self.bus,
            self.cache,
            events=lambda: self.processed,
            feed=lambda: self.feed,
            extra=lambda: {"new_highs": 3},
            lag_ms=lambda: self.lag,
            warming_up=lambda: self.warming_up,
        )


def test_before_the_first_event_everything_is_known_to_be_unknown() -> None:
    """No day, session closed, no lag: nulls, not zeros that look like values."""
    payload = Bench().stage.payload()

    assert payload["trading_day"] is None
    assert payload["session"] == "closed"
    assert payload["lag_ms"] is None
    assert payload["symbols"] == 0
    assert payload["warming_up"] is True
    for name in (
        "early_close",
        "next_session",
        "next_session_at",
        "provider_session",
        "holiday",
        "next_holiday",
    ):
        assert payload[name] is None


def test_the_payload_has_session_feed_lag_gaps_and_scanners_fields() -> None:
    """Everything that clients may rely on, in one flat object."""
    bench = Bench()
    bench.market.clock.set(OPEN)
    bench.market.session = "regular"
    bench.lag, bench.warming_up = 123.6, False

    assert bench.stage.payload() == {
        "session": "regular",
        "trading_day": "2026-03-10",
        "market_time": OPEN,
        "early_close": False,
        "next_session": "after_hours",
        "next_session_at": OPEN + 23_400_000,  # 16:00
        "provider_session": "regular",
        "holiday": None,
        "next_holiday": {"date": "2026-04-03", "name": "Good Friday", "early_close": None},
        "feed_state": "live",
        "feed_detail": "",
        "feed_since": 5,
        "gaps": 2,
        "lag_ms": 124,
        "events_per_second": 0,
        "symbols": 0,
        "warming_up": False,
        "new_highs": 3,
    }


def ny(month: int, day: int, hour: int, minute: int = 0) -> int:
    """A New York wall time of 2026 in ms."""
    return round(datetime(2026, month, day, hour, minute, tzinfo=NEW_YORK).timestamp() * 1000)


@pytest.mark.parametrize(
    ("now", "early", "session", "at"),
    [
        (ny(11, 25, 4), False, "regular", ny(11, 25, 9, 30)),
        (ny(11, 25, 15, 59), False, "after_hours", ny(11, 25, 16)),
        (ny(11, 25, 19, 59), False, "closed", ny(11, 25, 20)),
        (ny(11, 25, 20), False, "pre_market", ny(11, 27, 4)),  # the next day is Thanksgiving
        (ny(11, 26, 12), False, "pre_market", ny(11, 27, 4)),
        (ny(11, 27, 9, 30), True, "after_hours", ny(11, 27, 13)),
        (ny(11, 27, 13), True, "closed", ny(11, 27, 17)),
        (ny(11, 27, 17), True, "pre_market", ny(11, 30, 4)),  # a Monday
    ],
)
def test_the_boundary_ahead(now: int, early: bool, session: str, at: int) -> None:
    """Which session begins next, and when, over a holiday, a half day and a weekend."""
    bench = Bench()
    bench.market.clock.set(now)
    payload = bench.stage.payload()
    assert (payload["early_close"], payload["next_session"], payload["next_session_at"]) == (
        early,
        session,
        at,
    )
    assert payload["provider_session"] is None  # its time is not known


@pytest.mark.parametrize(
    ("provider", "session", "holiday", "ahead"),
    [
        (ny(11, 25, 20, 1), "closed", None, ("2026-11-26", None)),
        (ny(11, 26, 10), "closed", "Thanksgiving Day", ("2026-11-27", "13:00")),
        (ny(11, 27, 5), "pre_market", "Day after Thanksgiving Day", ("2026-12-24", "13:00")),
        (ny(11, 27, 13, 30), "after_hours", "Day after Thanksgiving Day", ("2026-12-24", "13:00")),
        (ny(11, 28, 10), "closed", None, ("2026-12-24", "13:00")),
    ],
)
def test_while_nothing_trades_the_providers_time_tells_the_day(
    provider: int, session: str, holiday: str | None, ahead: tuple[str, str | None]
) -> None:
    """The market clock stands at Wednesday's last event and so does its day; holiday and session do not."""
    bench = Bench()
    bench.market.clock.set(ny(11, 25, 19, 59))
    bench.lag = provider - ny(11, 25, 19, 59)
    payload = bench.stage.payload()
    assert payload["trading_day"] == "2026-11-25"
    assert (payload["provider_session"], payload["holiday"]) == (session, holiday)
    assert (payload["next_holiday"]["date"], payload["next_holiday"]["early_close"]) == ahead


def test_what_the_provider_announced_is_told() -> None:
    """By the calendar that the clock goes by, not by the library alone."""
    bench = Bench()
    calendar = ExchangeCalendar()
    calendar.learn([SpecialDay(date(2026, 3, 12), "National Day of Mourning", None)], date(2026, 3, 10))
    bench.market.clock.use(calendar)
    bench.market.clock.set(OPEN)
    assert bench.stage.payload()["next_holiday"]["name"] == "National Day of Mourning"


async def test_it_is_published_and_kept_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subscribers get each one, `get` the last, with the place of the message it equals; stop ends it."""
    monkeypatch.setattr(module, "_PERIOD_SECONDS", 0.01)
    bench = Bench()
    got: list[Message] = []
    bench.bus.subscribe("market:status", got.append)
    assert not bench.stage.health().ok
    await bench.stage.start()
    assert bench.stage.health().ok
    async with asyncio.timeout(60):
        while len(got) < 3:
            bench.processed += 1_000
            await asyncio.sleep(0.005)

    entry = await bench.cache.get("market:status")
    assert entry is not None
    assert (entry.value, entry.seq) == (got[-1].value, got[-1].seq)
    assert got[-1].value["events_per_second"] > 0
    await bench.stage.stop()
    await bench.stage.stop()
    assert not bench.stage.health().ok


async def test_a_field_that_cannot_be_worked_out_does_not_end_the_feed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A user's scanner that raises in `status_fields` costs a second's status, not all that follow."""
    monkeypatch.setattr(module, "_PERIOD_SECONDS", 0.01)
    bench = Bench()
    got: list[Message] = []
    bench.bus.subscribe("market:status", got.append)
    fields, bench.feed = bench.feed, None  # type: ignore[assignment]
    await bench.stage.start()
    await asyncio.sleep(0.05)
    bench.feed = fields
    async with asyncio.timeout(60):
        while not got:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await bench.stage.stop()
