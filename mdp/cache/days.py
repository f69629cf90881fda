"""Which trading day's reference values are due, and which session the snapshot's previous day is of."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, time, timedelta

from mdp.exchange_calendar import ExchangeCalendar
from mdp.sessions import NEW_YORK, TradingDay, next_session

NEXT_DAY_FROM = time(3, 35)  # the provider clears its day's values at 03:30 (market.md A4)
CLEARED_AT = time(3, 30)
#: No closing lasts longer. A provider's clock further away than that from the events' belongs to another
#: time than the events do: a replay with the reference values of a live provider.
REPLAY_MS = 6 * 86_400_000


class Days:
    """Reads the clocks of the market, never the process's own.

    Args:
        server_ms: The provider's time, epoch ms; None while it is not known.
        market_ms: The market clock, epoch ms; 0 before the first event.
        calendar: Knows the sessions.
    """

    def __init__(
        self,
        server_ms: Callable[[], float | None],
        market_ms: Callable[[], float],
        calendar: ExchangeCalendar,
    ) -> None:
        self._server_ms, self._market_ms = server_ms, market_ms
        self._calendar = calendar

    def now(self) -> float | None:
        """Epoch ms: the provider's clock where it and the events are of one time; None while unknown."""
        server, market = self._server_ms(), self._market_ms()
        if not market:
            return server
        if server is None or abs(server - market) > REPLAY_MS:
            return market
        return max(server, market)

    def due(self) -> date | None:
        """The newest trading day whose values should be there or on their way; None while unknown."""
        now = self.now()
        if now is None:
            return None
        day = TradingDay.containing(now, self._calendar).day
        following = next_session(day, self._calendar)
        return following if now >= _new_york_ms(following, NEXT_DAY_FROM) else day

    def snapshot_fits(self, day: date) -> bool | None:
        """Whether, by the clock, the full snapshot's `prevDay` is of the session before a trading day now.

        None before 04:00 of the day: it was cleared and is empty.
        """
        now = self.now()
        if now is None:
            return False
        if now < TradingDay.of(day, self._calendar).start_ms:
            return None
        return now < _new_york_ms(day + timedelta(days=1), CLEARED_AT)


def _new_york_ms(day: date, at: time) -> float:
    return datetime.combine(day, at, NEW_YORK).timestamp() * 1000
