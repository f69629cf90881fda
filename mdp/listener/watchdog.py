"""When silence means that the connection is dead, judged over the whole market and never on one symbol.

Rules without clock and I/O: the listener asks with the times it has.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

import msgspec

_SECOND_NS = 1_000_000_000

QUIET_FACTOR = 4.0  # extended hours are thin, and an unknown market status may hide a holiday
NARROW_FACTOR = 10.0  # a handful of symbols says less than the whole market
NARROW_SYMBOLS = 20  # fewer than this without a wildcard say nothing at all
DELAYED_SECONDS = 15 * 60.0  # a delayed feed begins that much after the market does

#: Longest natural pause between frames of a topic over all symbols, in seconds. Minute bars come in
#: one burst a minute. Topics that are not here (LULD, NOI, FMV ...) may rightly be silent for long.
_CADENCE_SECONDS: dict[str, float] = {
    "T": 0.0, "Q": 0.0, "A": 1.0, "AM": 60.0,
    "XT": 0.0, "XQ": 0.0, "XAS": 1.0, "XA": 60.0,
    "C": 0.0, "CAS": 1.0, "CA": 60.0,
    "V": 1.0,
}  # fmt: skip


class Market(enum.Enum):
    """What the provider says of the market now."""

    OPEN = "open"
    EXTENDED = "extended-hours"
    CLOSED = "closed"
    UNKNOWN = "unknown"


class Coverage(msgspec.Struct, frozen=True):
    """How much of the market a set of subscriptions hears, as far as silence is concerned."""

    cadence_seconds: float  # of the fastest topic that counts
    factor: float  # by which patience grows because little is subscribed


def coverage(subscriptions: Iterable[str]) -> Coverage | None:
    """What silence over these subscriptions can mean; None where it means nothing."""
    cadence: dict[bool, float] = {}  # wildcard? -> fastest cadence
    symbols: set[str] = set()
    for pair in subscriptions:
        topic, _, symbol = pair.partition(".")
        seconds = _CADENCE_SECONDS.get(topic)
        if seconds is None:
            continue
        wildcard = symbol == "*"
        if not wildcard:
            symbols.add(symbol)
        cadence[wildcard] = min(seconds, cadence.get(wildcard, seconds))
    if True in cadence:
        return Coverage(cadence[True], 1.0)
    if len(symbols) >= NARROW_SYMBOLS:
        return Coverage(cadence[False], NARROW_FACTOR)
    return None


class Watchdog:
    """Decides whether an open, silent connection is to be restarted.

    Args:
        stall_seconds: Silence over all symbols that is too long in regular hours.
        delayed: The feed lags the market by 15 minutes, so it is rightly silent after the opening.
    """

    def __init__(self, *, stall_seconds: float, delayed: bool = False) -> None:
        self._stall_seconds = stall_seconds
        self._delayed = delayed
        self._market: Market | None = None
        self._since_ns = 0  # silence before this says nothing: another market status held then
        self._suspect_ns: int | None = None  # arrival of the last frame when silence first was too long

    def silent_too_long(
        self,
        now_ns: int,
        last_frame_ns: int,
        market: Market,
        subscriptions: Iterable[str],
        *,
        open_for_ns: int | None = None,
    ) -> bool:
        """Whether the connection is to be restarted, asked about once a second while it is open.

        It takes two looks in a row: after the process itself stood still (a busy machine, a debugger), the
        first comes before the frames that have been waiting in the socket.

        Args:
            now_ns: Monotonic, as all times here.
            last_frame_ns: Arrival of the newest frame, of any symbol.
            market: The provider's market status.
            subscriptions: Those that the provider serves on this connection.
            open_for_ns: For how long the market has been open, None where that is not known.
        """
        if market is not self._market:
            if self._market is not None:  # a night's silence is no stall when the market opens in the morning
                self._since_ns = now_ns
            self._market = market
        patience_ns = self.patience_ns(market, subscriptions, open_for_ns=open_for_ns)
        if patience_ns is None or now_ns - max(last_frame_ns, self._since_ns) <= patience_ns:
            self._suspect_ns = None
            return False
        sure = self._suspect_ns == last_frame_ns
        self._suspect_ns = last_frame_ns
        return sure

    def patience_ns(
        self, market: Market, subscriptions: Iterable[str], *, open_for_ns: int | None = None
    ) -> int | None:
        """How long the feed may be silent, in ns; None: as long as it likes.

        Args:
            market: The provider's market status.
            subscriptions: Those that the provider serves on this connection.
            open_for_ns: For how long the market has been open, None where that is not known.
        """
        if market is Market.CLOSED:
            return None
        heard = coverage(subscriptions)
        if heard is None:
            return None
        seconds = self._stall_seconds * heard.factor
        if market is not Market.OPEN:
            seconds *= QUIET_FACTOR
        seconds += heard.cadence_seconds
        if self._delayed:
            opened_seconds = 0.0 if open_for_ns is None else open_for_ns / _SECOND_NS
            seconds += max(0.0, DELAYED_SECONDS - opened_seconds)
        return round(seconds * _SECOND_NS)
