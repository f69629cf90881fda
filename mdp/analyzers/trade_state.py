"""What is kept of a symbol's trades: the last 1,000, and the day's sums and extremes.

Twenty numbers a symbol, each an object of its own somewhere in memory, made every trade wait for twenty
cache misses. So a trade is only noted, in one record of the window; the day's numbers are brought up to
date from the window when somebody asks, or when it is full, many trades in one call of C.
"""

from __future__ import annotations

from array import array
from itertools import compress
from math import inf
from operator import mul
from struct import Struct as Layout
from typing import Any

from mdp.events import Number
from mdp.trade_rules import DAY_HIGH_LOW, HIGH_LOW, LAST, ODD

WINDOW = 1_000

#: Places of the highs in `SymbolTrades.extremes`; each low is behind its high.
PRE, REGULAR, AFTER, CLOSED, DAY_OUTSIDE_HOURS = 0, 2, 4, 6, 8

#: A trade of the window: size, time (ms), price; its code (below); its exchange or `NO_EXCHANGE`.
#: Doubles hold every share count and millisecond exactly, below 2**53.
RECORD = Layout("@dddii")
RECORD_BYTES = RECORD.size
NO_EXCHANGE = -1
#: A code is the effect (a sum of `mdp.trade_rules` flags), the place shifted, and whether the price came as
#: a whole number (10 and not 10.0).
PLACE_SHIFT = 6
WHOLE = 1 << 10
_WHERE = (WHOLE - 1) & ~((1 << PLACE_SHIFT) - 1) | DAY_HIGH_LOW

_FIRST_BYTES = 16 * RECORD_BYTES
_FULL_BYTES = WINDOW * RECORD_BYTES


class _Hot:
    """What every trade reads and writes of a symbol, side by side in memory: slots are sorted by name."""

    __slots__ = ("at", "end", "ring")


class SymbolTrades(_Hot):
    """One symbol's trades today. `TradeLedger` writes it; analyzers read it by `window` and `day`.

    A plain class with slots; a full window takes 32 KB.

    Attributes:
        ring: The window's records. Wraps around once it holds 1,000.
        at, end: Bytes: where the next record goes, and where `turn` has to be called.
        folded: Bytes: what is before it is in the numbers below.
        full: Whether records from `at` on are of the window, too.
        count, volume, dollars, max_size: Of the day's trades whose shares count.
        odd_count, odd_volume: Of them, odd lots.
        first_ms, newest_ms: Oldest and newest time of them; 0 before the first.
        price, price_ms, exchange: Of the newest trade, by its time, that may set the last price.
        late: (price, ms, exchange) of one that arrived after it and is older.
        extremes: High and low of each session, and of the prints outside of regular hours that may set the
            day's.
        duplicates: Trades that came again and were left out.
        singles: Changes by trades whose shares do not count.
    """

    __slots__ = (
        "_day",
        "_day_of",
        "_window",
        "_window_of",
        "count",
        "dollars",
        "duplicates",
        "exchange",
        "extremes",
        "first_ms",
        "folded",
        "full",
        "late",
        "max_size",
        "newest_ms",
        "odd_count",
        "odd_volume",
        "price",
        "price_ms",
        "singles",
        "volume",
    )

    def __init__(self) -> None:
        self.ring = array("d", bytes(_FIRST_BYTES))
        self.at = 0
        self.end = _FIRST_BYTES
        self.folded = 0
        self.full = False
        self.count = 0
        self.volume: Number = 0
        self.dollars: float = 0.0
        self.max_size: Number = 0
        self.odd_count = 0
        self.odd_volume: Number = 0
        self.first_ms: Number = 0
        self.newest_ms: Number = 0
        self.price: Number = 0
        self.price_ms: Number = 0
        self.exchange: int | None = None
        self.late: tuple[Number, Number, int | None] | None = None
        self.extremes: list[Number] = [0, inf] * 5
        self.duplicates = 0
        self.singles = 0
        self._window: dict[str, Any] = {}
        self._window_of: tuple[int, int] | None = None  # what `_window` was worked out from
        self._day: dict[str, Any] = {}
        self._day_of: tuple[int, int, int] | None = None

    @property
    def trade_count(self) -> int:
        """Trades of the day whose shares count; costs nothing."""
        return self.count + (self.at - self.folded) // RECORD_BYTES

    @property
    def empty(self) -> bool:
        """Whether nothing is in the window."""
        return not self.at and not self.full

    @property
    def held(self) -> int:
        """Trades in the window; costs nothing."""
        return WINDOW if self.full else self.at // RECORD_BYTES

    def newest_records(self, count: int) -> array[float]:
        """The records of the window's last trades, in the order in which they arrived.

        Args:
            count: How many; `held` at most.
        """
        begin, at = self.at - count * RECORD_BYTES, self.at // 8
        if begin >= 0:
            return self.ring[begin // 8 : at]
        return self.ring[begin // 8 :] + self.ring[:at]

    def loose_records(self, most: int) -> bytes:
        """The records that are not in the day's numbers yet; more than `most` are summed up instead.

        To write a few down is cheaper than to sum them up: a symbol's numbers have to be fetched from
        memory for that, and most symbols trade seldom.
        """
        if self.at - self.folded > most * RECORD_BYTES:
            self.fold()
        return self.ring[self.folded // 8 : self.at // 8].tobytes()

    def add_records(self, records: bytes) -> None:
        """Bring what `loose_records` gave into the day's numbers; the window must be empty, and stays so.

        Raises:
            ValueError: These are no records.
        """
        if len(records) % RECORD_BYTES:
            raise ValueError(f"{len(records)} bytes are no whole number of trades")
        self.ring = array("d", records)
        self.at, self.folded = len(records), 0
        self.clear_window()

    def restore_window(self, records: array[float]) -> None:
        """Take back what is in the day's numbers already: the last 1,000 trades or less, oldest first."""
        size = len(records) * 8
        self.end = _FIRST_BYTES
        while self.end < size:
            self.end = min(4 * self.end, _FULL_BYTES)
        self.ring = array("d", bytes(self.end))
        self.ring[: len(records)] = records
        self.at = self.folded = size
        self.full = False
        self._window_of = None
        if self.at == self.end:
            self.turn()

    @property
    def last_ms(self) -> float:
        """Time of the window's trade that arrived last; there must be one."""
        return self.ring[(self.at // 8) - 3]  # of the end, where it is at the beginning

    @property
    def newest_in_window_ms(self) -> float:
        """The newest time in a window that is not empty."""
        return max(self._columns()[1::4])

    def turn(self) -> None:
        """`at` has reached `end`: make the ring longer, or begin at its beginning again."""
        if self.end < _FULL_BYTES:
            self.end = min(4 * self.end, _FULL_BYTES)
            self.ring.frombytes(bytes(self.end - self.at))
        else:
            self.fold()
            self.at = self.folded = 0
            self.full = True

    def fold(self) -> None:
        """Bring the day's numbers up to date; 0.2 ms at most."""
        begin, end = self.folded, self.at
        if begin == end:
            return
        self.folded = end
        part = self.ring[begin // 8 : end // 8]
        # Lists: what is in an array is made an object anew each time it is looked at.
        sizes, times, prices = part[0::4].tolist(), part[1::4].tolist(), part[2::4].tolist()
        with memoryview(part).cast("B") as octets, octets.cast("i") as words:
            codes, exchanges = words[6::8].tolist(), words[7::8].tolist()
        self.volume += sum(sizes)
        self.dollars += sum(map(mul, prices, sizes))
        self.max_size = max(self.max_size, max(sizes))
        newest, oldest = max(times), min(times)
        self.first_ms = min(self.first_ms, oldest) if self.count else oldest
        self.newest_ms = max(self.newest_ms, newest)
        self.count += len(sizes)
        kinds = set(codes)
        odd = {kind for kind in kinds if kind & ODD}
        if odd:
            odd_sizes = list(compress(sizes, map(odd.__contains__, codes)))
            self.odd_count += len(odd_sizes)
            self.odd_volume += sum(odd_sizes)
        self._extend(kinds, codes, prices)
        self._find_last(times, newest, prices, codes, exchanges)

    def _extend(self, kinds: set[int], codes: list[int], prices: list[float]) -> None:
        """Take the highs and lows of these prices, each in its session."""
        groups: dict[int, set[int]] = {}  # what they may set, and where -> kinds
        for kind in kinds:
            if kind & HIGH_LOW:
                groups.setdefault(kind & _WHERE, set()).add(kind)
        extremes = self.extremes
        for where, group in groups.items():
            chosen = prices
            if len(group) < len(kinds):
                chosen = list(compress(prices, map(group.__contains__, codes)))
            high, low = max(chosen), min(chosen)
            places = [(where & (WHOLE - 1)) >> PLACE_SHIFT]
            if where & DAY_HIGH_LOW:
                places.append(DAY_OUTSIDE_HOURS)
            for place in places:
                extremes[place] = max(extremes[place], high)
                extremes[place + 1] = min(extremes[place + 1], low)

    def _find_last(
        self,
        times: list[float],
        newest: float,
        prices: list[float],
        codes: list[int],
        exchanges: list[int],
    ) -> None:
        """Which of these may have set the last price: the newest, of equal times the one that came later."""
        arrived = len(codes) - 1
        while arrived >= 0 and not codes[arrived] & LAST:
            arrived -= 1
        if arrived < 0:
            return
        best = arrived
        if times[arrived] < newest:
            for at in range(arrived - 1, -1, -1):
                if times[at] > times[best] and codes[at] & LAST:
                    best = at
        if best != arrived:
            self._last(prices[best], times[best], codes[best], exchanges[best])
        self._last(prices[arrived], times[arrived], codes[arrived], exchanges[arrived])

    def _last(self, price: float, ms: float, code: int, exchange: int) -> None:
        """A price that may be the last arrived."""
        shown = int(price) if code & WHOLE else price
        venue = exchange if exchange != NO_EXCHANGE else None
        if ms >= self.price_ms:
            self.price, self.price_ms, self.exchange, self.late = shown, ms, venue, None
        else:
            self.late = (shown, ms, venue)

    def single(self, price: float, ms: float, code: int, exchange: int) -> None:
        """A print whose shares do not count, such as a corrected close."""
        self.fold()
        if code & (HIGH_LOW | LAST):
            self.singles += 1
            self._extend({code}, [code], [price])
            if code & LAST:
                self._last(price, ms, code, exchange)

    def clear_window(self) -> None:
        """Forget the last 1,000; the day's numbers stay."""
        self.fold()
        self.ring = array("d", bytes(_FIRST_BYTES))
        self.at, self.end, self.folded, self.full = 0, _FIRST_BYTES, 0, False
        self._window_of = None

    def window(self) -> dict[str, Any]:
        """The top-trades statistics of a window that is not empty (40 us for a full one, once)."""
        self.fold()
        state = (self.count, self.singles)
        if self._window_of != state:
            part = self._columns()
            sizes, times = part[0::4], part[1::4]
            count, total = len(sizes), sum(sizes)
            price, ms, exchange = self.late or (self.price, self.price_ms, self.exchange)
            self._window = {
                "total_volume": plain(total),
                "trade_count": count,
                "avg_size": round(total / count, 2),
                "max_size": plain(max(sizes)),
                "time_span_ms": int(max(times) - min(times)),
                "latest_price": price,
                "latest_timestamp": plain(ms),
                "latest_exchange": exchange if exchange is not None else "",
            }
            self._window_of = state
        return self._window

    def day(self, symbol: str) -> dict[str, Any]:
        """The payload of `trade_stats:{S}`; the same object until something changed."""
        self.fold()
        state = (self.count, self.singles, self.duplicates)
        if self._day_of != state:
            self._day = self._work_out(symbol)
            self._day_of = state
        return self._day

    def _work_out(self, symbol: str) -> dict[str, Any]:
        count, volume, extremes = self.count, self.volume, self.extremes
        high = max(extremes[REGULAR], extremes[DAY_OUTSIDE_HOURS])
        low = min(extremes[REGULAR + 1], extremes[DAY_OUTSIDE_HOURS + 1])
        return {
            "symbol": symbol,
            "total_volume": plain(volume),
            "trade_count": count,
            "avg_size": round(volume / count, 2) if count else 0,
            "max_size": plain(self.max_size),
            "time_span_ms": int(self.newest_ms - self.first_ms),
            "latest_price": self.price,
            "latest_timestamp": plain(self.price_ms),
            "latest_exchange": self.exchange if self.exchange is not None else "",
            "first_timestamp": plain(self.first_ms),
            "newest_timestamp": plain(self.newest_ms),
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

    def _columns(self) -> array[float]:
        return self.ring if self.full else self.ring[: self.at // 8]


def plain(value: Number) -> Number:
    """A count as an int, unless it has a fraction of a share."""
    whole = int(value)
    return whole if whole == value else value
