"""The feed `market:status`: session, state of the provider's feed, lag, and what scanners add."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog

from mdp.analyzers.state import Market
from mdp.cache.base import Bus, Cache
from mdp.exchange_calendar import SpecialDay
from mdp.feeds import MARKET_STATUS
from mdp.sessions import PRE_MARKET, MarketClock, TradingDay, new_york_date
from mdp.stage import Health

log = structlog.get_logger(__name__)

_PERIOD_SECONDS = 1.0
#: What `calendar_fields` gives before there is a day.
NO_CALENDAR_FIELDS: dict[str, Any] = dict.fromkeys(
    ("early_close", "next_session", "next_session_at", "provider_session", "holiday", "next_holiday")
)


class MarketStatusFeed:
    """A stage: publishes `market:status` once a second.

    Args:
        market: Clock and session.
        bus: Where to publish.
        cache: Where the last value stays.
        events: Events that went through the workers so far.
        feed: State of the provider's feed: `feed_state`, `feed_detail`, `feed_since`, `gaps`.
        extra: Fields of scanners.
        lag_ms: How far the market clock is behind the provider's; None unknown.
        warming_up: Whether reference values are still on their way.
    """

    name = "market_status_feed"

    def __init__(
        self,
        market: Market,
        bus: Bus,
        cache: Cache,
        *,
        events: Callable[[], int],
        feed: Callable[[], dict[str, Any]],
        extra: Callable[[], dict[str, Any]],
        lag_ms: Callable[[], float | None],
        warming_up: Callable[[], bool],
    ) -> None:
        self._market = market
        self._bus = bus
        self._cache = cache
        self._events = events
        self._feed = feed
        self._extra = extra
        self._lag_ms = lag_ms
        self._warming_up = warming_up
        self._task: asyncio.Task[None] | None = None
        self._last: tuple[float, int] = (time.monotonic(), 0)
        self.events_per_second = 0.0
        self.failures = 0

    async def start(self) -> None:
        """Begin to publish."""
        self._task = asyncio.create_task(self._run(), name="market-status")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def health(self) -> Health:
        running = self._task is not None and not self._task.done()
        return Health(running, "publishes" if running else "does not run")

    def payload(self) -> dict[str, Any]:
        """The feed's payload now."""
        market = self._market
        day = market.clock.day
        lag = self._lag_ms()
        return {
            "session": market.session,
            "trading_day": day.day.isoformat() if day else None,
            "market_time": market.clock.now_ms,
            **(calendar_fields(market.clock, day, lag) if day else NO_CALENDAR_FIELDS),
            **self._feed(),
            "lag_ms": None if lag is None else round(lag),
            "events_per_second": round(self.events_per_second),
            "symbols": len(market.symbols),
            "warming_up": self._warming_up(),
            **self._extra(),
        }

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_SECONDS)
            now, events = time.monotonic(), self._events()
            before, had = self._last
            self.events_per_second = (events - had) / max(now - before, 1e-9)
            self._last = (now, events)
            try:
                payload = self.payload()
            except Exception as exc:  # a field of a user's scanner, most likely: the next second may be well
                self.failures += 1
                if self.failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... time
                    log.error("market_status_failed", failures=self.failures, exc_info=exc)
                continue
            self._cache.set(MARKET_STATUS, "", payload)
            self._bus.publish(MARKET_STATUS, "", payload)


def calendar_fields(clock: MarketClock, day: TradingDay, lag_ms: float | None) -> dict[str, Any]:
    """What the calendar adds: the boundary ahead by the market clock, and what the provider's date is.

    `session` goes by events and stays at the last one's after the close; `provider_session` and `holiday`
    go by the provider's own time, where it is known.
    """
    calendar = clock.calendar
    now_ms = clock.now_ms if lag_ms is None else clock.now_ms + lag_ms
    today = day if day.start_ms <= now_ms < day.end_ms else TradingDay.containing(now_ms, calendar)
    date = new_york_date(now_ms)
    special = calendar.special(date)
    ahead = calendar.next_special(date)
    closed = clock.now_ms >= day.post_ms
    next_at = day.end_ms if closed else day.session_end(clock.now_ms)
    return {
        "early_close": day.early_close,
        "next_session": PRE_MARKET if closed else day.session(next_at),
        "next_session_at": next_at,
        "provider_session": None if lag_ms is None else today.session(now_ms),
        "holiday": special.name if special else None,
        "next_holiday": None if ahead is None else _described(ahead),
    }


def _described(special: SpecialDay) -> dict[str, Any]:
    """`early_close` is the New York time at which it ends, null where there is no session at all."""
    close = special.close
    return {
        "date": special.day.isoformat(),
        "name": special.name,
        "early_close": None if close is None else f"{close:%H:%M}",
    }
