"""What is kept of a symbol's trades: the last 1,000, the day's sums and extremes, and which came already."""

from __future__ import annotations

from array import array
from math import inf
from typing import Any

from mdp.events import Number

WINDOW = 1_000

#: Places of the highs in `SymbolTrades.extremes`; each low is behind its high.
PRE, REGULAR, AFTER, CLOSED, DAY_OUTSIDE_HOURS = 0, 2, 4, 6, 8

#: A generation of keys (see `Seen` below) that is so large lasts at least as long as a window.
BASE_SLOTS = 2_048
MAX_SLOTS = 65_536
_FIRST_SLOTS = 16
_NO_KEYS = array("q", [0])
#: Of the keys beyond the base size, all symbols together: 32 MiB.
MAX_EXTRA_SLOTS = 4 * 1024 * 1024
#: A repeat that comes within this time is recognized, as long as there is room.
KEEP_MS = 10 * 60_000


class SymbolTrades:
    """One symbol's trades today. `TradeLedger` writes it; analyzers read it.

    A plain class with slots, and arrays of doubles (they hold every share count and millisecond exactly,
    below 2**53): 16 KB for a full window.

    *Seen.* `keys` and `older` are open-addressed tables of the 64-bit hashes of (exchange, id, tape, TRF)
    of the trades that came: 16 bytes a trade or so, where a set would take 64. When `keys` is half full it
    becomes `older`, and what `older` held is forgotten. Two different trades are taken for one with a
    probability of about 2 * 1,000 / 2**64 a trade: once in a hundred million years of the whole market.

    Attributes:
        sizes, times: Of the window's trades, in order of arrival. Shares, ms.
        at: Where the next one goes once the window is full.
        count, volume, dollars, max_size: Of the day's trades whose shares count.
        odd_count, odd_volume: Of them, odd lots.
        first_ms, newest_ms: Oldest and newest time of them; infinite before the first.
        price, price_ms, exchange: Of the newest trade, by its time, that may set the last price.
        late: (price, ms, exchange) of one that arrived after it and is older.
        extremes: High and low of each session, and of the prints outside of regular hours that may set the
            day's.
        duplicates: Trades that came again and were left out.
        window_stats, day_stats: What follows from all that; None: to be worked out anew.
        keys, mask, room: The newer hashes, slots - 1, and how many more go in; 0 is an empty slot.
        older, older_mask: Those before them.
        since_ms: Market clock when `keys` was begun.
    """

    __slots__ = (
        "at",
        "count",
        "day_stats",
        "dollars",
        "duplicates",
        "exchange",
        "extremes",
        "first_ms",
        "keys",
        "late",
        "mask",
        "max_size",
        "newest_ms",
        "odd_count",
        "odd_volume",
        "older",
        "older_mask",
        "price",
        "price_ms",
        "room",
        "since_ms",
        "sizes",
        "times",
        "volume",
        "window_stats",
    )

    def __init__(self, since_ms: float = 0) -> None:
        self.sizes = array("d")
        self.times = array("d")
        self.at = 0
        self.count = 0
        self.volume: Number = 0
        self.dollars: float = 0.0
        self.max_size: Number = 0
        self.odd_count = 0
        self.odd_volume: Number = 0
        self.first_ms: Number = inf
        self.newest_ms: Number = inf
        self.price: Number = 0
        self.price_ms: Number = 0
        self.exchange: Number | None = None
        self.late: tuple[Number, Number, Number | None] | None = None
        self.extremes: list[Number] = [0, inf] * 5
        self.duplicates = 0
        self.window_stats: dict[str, Any] | None = None
        self.day_stats: dict[str, Any] | None = None
        self.keys = array("q", bytes(8 * _FIRST_SLOTS))
        self.mask = _FIRST_SLOTS - 1
        self.room = _FIRST_SLOTS // 2
        self.older = _NO_KEYS
        self.older_mask = 0
        self.since_ms = since_ms

    @property
    def last_ms(self) -> float:
        """Time of the window's trade that arrived last; there must be one."""
        return self.times[self.at - 1]

    def clear_window(self) -> None:
        """Forget the last 1,000; the day's numbers stay."""
        self.sizes, self.times, self.at, self.window_stats = array("d"), array("d"), 0, None

    def window(self) -> dict[str, Any]:
        """The top-trades statistics of a window that is not empty (40 us for a full one, once)."""
        if self.window_stats is None:
            count = len(self.sizes)
            total = sum(self.sizes)
            price, ms, exchange = self.late or (self.price, self.price_ms, self.exchange)
            self.window_stats = {
                "total_volume": plain(total),
                "trade_count": count,
                "avg_size": round(total / count, 2),
                "max_size": plain(max(self.sizes)),
                "time_span_ms": int(max(self.times) - min(self.times)),
                "latest_price": price,
                "latest_timestamp": plain(ms),
                "latest_exchange": exchange if exchange is not None else "",
            }
        return self.window_stats

    def day(self, symbol: str) -> dict[str, Any]:
        """The payload of `trade_stats:{S}`; the same object until the next trade."""
        if self.day_stats is None:
            count, volume, extremes = self.count, self.volume, self.extremes
            high = max(extremes[REGULAR], extremes[DAY_OUTSIDE_HOURS])
            low = min(extremes[REGULAR + 1], extremes[DAY_OUTSIDE_HOURS + 1])
            self.day_stats = {
                "symbol": symbol,
                "total_volume": plain(volume),
                "trade_count": count,
                "avg_size": round(volume / count, 2) if count else 0,
                "max_size": plain(self.max_size),
                "time_span_ms": int(self.newest_ms - self.first_ms) if count else 0,
                "latest_price": self.price,
                "latest_timestamp": plain(self.price_ms),
                "latest_exchange": self.exchange if self.exchange is not None else "",
                "first_timestamp": plain(self.first_ms) if count else 0,
                "newest_timestamp": plain(self.newest_ms) if count else 0,
                "vwap": self.dollars / volume if volume else 0,
                "dollar_volume": self.dollars,
                "odd_lot_volume": plain(self.odd_volume),
                "odd_lot_count": self.odd_count,
                "duplicates": self.duplicates,
                "high": high or None,
                "low": low if high else None,
                "pre_market_high": extremes[PRE] or None,
                "pre_market_low": extremes[PRE + 1] if extremes[PRE] else None,
                "regular_session_high": extremes[REGULAR] or None,
                "regular_session_low": extremes[REGULAR + 1] if extremes[REGULAR] else None,
                "after_hours_high": extremes[AFTER] or None,
                "after_hours_low": extremes[AFTER + 1] if extremes[AFTER] else None,
            }
        return self.day_stats

    def make_room(self, now_ms: float, extra_slots: int) -> int:
        """Widen `keys`, or let it become `older`: called when it is half full.

        At most 2 ms, for the largest table.

        Args:
            now_ms: Market clock.
            extra_slots: Slots beyond the base size that all symbols have together.

        Returns:
            By how many that grew.
        """
        slots = self.mask + 1
        before = _extra(slots) + _extra(self.older_mask + 1)
        if slots < BASE_SLOTS:
            wider = min(slots * 4, BASE_SLOTS)
        elif (
            now_ms - self.since_ms < KEEP_MS and slots < MAX_SLOTS and extra_slots + slots <= MAX_EXTRA_SLOTS
        ):
            wider = slots * 2
        else:
            wider = 0
        if wider:
            held = [key for key in self.keys if key]
            self._begin(wider)
            keys, mask = self.keys, self.mask
            for key in held:
                slot = key & mask
                while keys[slot]:
                    slot = (slot + 1) & mask
                keys[slot] = key
            self.room -= len(held)
        else:
            spare = MAX_EXTRA_SLOTS - extra_slots - _extra(slots) + _extra(self.older_mask + 1)
            self.older, self.older_mask = self.keys, self.mask
            # As large as it had to be, lest it is widened step by step again.
            self._begin(slots if _extra(slots) <= spare else BASE_SLOTS)
            self.since_ms = now_ms
        return _extra(self.mask + 1) + _extra(self.older_mask + 1) - before

    def _begin(self, slots: int) -> None:
        self.keys = array("q", bytes(8 * slots))
        self.mask = slots - 1
        self.room = slots // 2


def _extra(slots: int) -> int:
    return max(0, slots - BASE_SLOTS)


def plain(value: Number) -> Number:
    """A count as an int, unless it has a fraction of a share."""
    whole = int(value)
    return whole if whole == value else value
