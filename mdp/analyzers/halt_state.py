"""The state of one symbol's trading: halted or not, since when, why, and how far its bands are.

A halt is told by several voices: the provider's LULD topic, the exchange's own list, and trades, which
prove that a symbol trades again. The rules by which they become one story are here; they know no feeds.

Times are ms since the Unix epoch, prices USD.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from mdp.events import Number

#: Who says so.
LULD = "luld"
TRADES = "trades"  # only ever of a resumption

#: Two sources that put a halt's start so close together mean the same halt. The clocks of the tape and of
#: the exchange's list differ by seconds; two volatility pauses of a symbol begin at least 5 minutes apart
#: (LULD plan, section VII: a pause lasts 5 minutes).
MERGE_MS = 120_000
#: The exchange may still put off a resumption when its time comes (LULD plan, section VII.B: a pause is
#: extended by 5 minutes where the auction finds no price), and says so a few seconds later. So its word
#: alone counts so much later than the time it names; a bar or the tape's reopening counts at once.
GRACE_MS = 30_000

_MAX_PERIODS = 100  # a day of regular hours has room for 78 pauses of 5 minutes

#: Texts for the codes of Nasdaq's list "Trade Halt Codes" (nasdaqtrader.com, Trader.aspx?id=TradeHaltCodes).
REASONS = {
    "T1": "news pending",
    "T2": "news released",
    "T3": "news out, resumption times set",
    "T5": "single stock trading pause",
    "T6": "extraordinary market activity",
    "T7": "single stock trading pause, quotes only",
    "T8": "exchange-traded fund",
    "T12": "information requested by the exchange",
    "H4": "non-compliance with listing rules",
    "H9": "filings not current",
    "H10": "SEC trading suspension",
    "H11": "regulatory concern",
    "O1": "operations",
    "IPO1": "IPO not yet trading",
    "IPOQ": "IPO released for quotation",
    "IPOE": "IPO positioning window extended",
    "M": "volatility trading pause",
    "M1": "corporate action",
    "M2": "no quotations",
    "LUDP": "volatility trading pause",
    "LUDS": "volatility trading pause, straddle condition",
    "MWC0": "market-wide circuit breaker, carried over from the day before",
    "MWC1": "market-wide circuit breaker, level 1",
    "MWC2": "market-wide circuit breaker, level 2",
    "MWC3": "market-wide circuit breaker, level 3",
    "MWCQ": "market-wide circuit breaker, resumption",
    "R1": "new issue available",
    "R2": "issue available",
    "R4": "qualification issues resolved",
    "R9": "filing requirements satisfied",
    "C3": "news not forthcoming",
    "C4": "qualification halt ended",
    "C9": "qualification halt ended",
    "C11": "halt by other regulators ended",
    "D": "security deleted",
}
_LULD_REASON = "volatility pause or halt"  # indicator 17 is both


def reason_of(code: str) -> str:
    """Words for the exchange's reason codes, joined by "+"; for none, what the tape's halt may be."""
    if not code:
        return _LULD_REASON
    return "; ".join(REASONS.get(part, f"code {part}") for part in re.split(r"[^A-Za-z0-9]+", code) if part)


Side = Literal["", "upper", "lower"]


class HaltState(msgspec.Struct, gc=False):
    """What is known of one symbol. Fields up to `again` are kept over a restart."""

    symbol: str
    high: Number = 0  # upper band; 0: unknown
    low: Number = 0
    band_timestamp: Number = 0
    halted: bool = False
    start: Number = 0  # of the halt, or where trading, of the last one; 0: none known
    end: Number = 0  # of the last resumption
    source: str = ""  # who told first
    end_source: str = ""
    count: int = 0  # halts that began this trading day
    periods: list[list[Number]] = []  # of them, [start, end or 0]
    code: str = ""
    quote_expected: Number = 0  # when quoting is said to resume
    expected: Number = 0  # when trading is said to resume
    market: str = ""
    pause_price: Number = 0
    again: Number = 0  # newest time at which the tape said "halted" during this halt
    # The limit state, which is known only from one moment to the next.
    side: Side = ""
    basis: str = ""  # "quote" or "trade"
    side_since: Number = 0
    quote_timestamp: Number = 0  # of the newest quote seen while near a band
    # Bars since the halt that must not be: how many, and the newest's start.
    bars: int = 0
    bar_start: Number = 0
    shown_price: Number = 0  # last price that was published

    @property
    def status(self) -> str:
        """`halted`, `limit_state` or `trading`."""
        return "halted" if self.halted else "limit_state" if self.side else "trading"

    def knows(self, start: Number) -> bool:
        """Whether a start is one of this day's halts, or of the last one."""
        if self.start and (abs(start - self.start) <= MERGE_MS or self.start <= start < self.end):
            return True
        return any(begin - MERGE_MS <= start <= max(end, begin + MERGE_MS) for begin, end in self.periods)

    def halt(self, start: Number, source: str, day_start: Number) -> str:
        """A source says that the symbol was halted at a time.

        Returns:
            `halted`: it is news. `late`: it is, but the symbol trades again since. `duplicate`: nothing new.
        """
        if self.halted:
            if source == LULD:
                self.again = max(self.again, start)
            return "duplicate"
        if start <= self.end:
            if self.knows(start):
                return "duplicate"
            self._note(start, self.end, day_start)
            if start > self.start:
                self.start, self.source, self.code = start, source, ""
            return "late"
        self.halted = True
        self.start, self.source = start, source
        self.code, self.quote_expected, self.expected, self.pause_price = "", 0, 0, 0
        self.again = start
        self.side, self.basis, self.side_since = "", "", 0
        self.bars = 0
        self._note(start, 0, day_start)
        return "halted"

    def resume(self, at: Number, source: str) -> str:
        """A source says that the symbol trades again since a time.

        Returns:
            `resumed`: it is news. `late`: older than the halt. `unmatched`: no halt was known; noted, so
            that the halt before it is known as past should it come yet. `duplicate`: nothing new.
        """
        if not self.halted:
            if self.end and at <= self.end + MERGE_MS:
                return "duplicate"
            self.start, self.end, self.end_source = 0, at, source
            return "unmatched"
        if at < self.start:
            return "late"
        self.halted = False
        self.end, self.end_source = at, source
        self.quote_timestamp = 0
        if self.periods and self.periods[-1][0] == self.start:
            self.periods[-1][1] = at
        return "resumed"

    def reopen(self) -> None:
        """The exchange took its resumption back: the last halt goes on, and counts once."""
        self.halted = True
        self.end, self.end_source = 0, ""
        self.bars = 0
        if self.periods and self.periods[-1][0] == self.start:
            self.periods[-1][1] = 0

    def begin_day(self, start: Number, now: Number) -> bool:
        """A trading day began: bands and counts start afresh, a halt goes on.

        Returns:
            Whether there is anything left to know of the symbol.
        """
        if max(self.start, self.end) > now + MERGE_MS:  # the market's time went back: it has not happened
            return False
        self.high = self.low = self.band_timestamp = 0
        self.side, self.basis, self.side_since, self.quote_timestamp = "", "", 0, 0
        self.periods = [period for period in self.periods if period[0] >= start]
        self.count = len(self.periods)
        return self.halted or now - max(self.start, self.end) < 86_400_000

    def _note(self, start: Number, end: Number, day_start: Number) -> None:
        if start < day_start:
            return
        self.count += 1
        self.periods.append([start, end])
        if len(self.periods) > _MAX_PERIODS:
            del self.periods[0]


_KEPT = HaltState.__struct_fields__[: HaltState.__struct_fields__.index("side")]


def record_of(state: HaltState) -> list[object]:
    """What `state_of` makes the state of again: msgpack-able, and a copy."""
    record = [getattr(state, name) for name in _KEPT]
    record[_KEPT.index("periods")] = [list(period) for period in state.periods]
    return record


def state_of(record: list[object]) -> HaltState:
    """The state that `record_of` gave; fields that an older version did not know have their defaults."""
    return msgspec.convert(dict(zip(_KEPT, record, strict=False)), HaltState)


class HaltRow(msgspec.Struct, gc=False):
    """`halt:{S}` (`docs/feeds.md`). null: not known, or none."""

    symbol: str
    status: str
    reason: str | None
    reason_code: str | None
    source: str | None
    halt_timestamp: Number | None
    resume_timestamp: Number | None
    resume_source: str | None
    resume_expected_timestamp: Number | None
    quote_resume_expected_timestamp: Number | None
    halted_ms: Number | None
    halts_today: int
    high_band: Number | None
    low_band: Number | None
    band_timestamp: Number | None
    distance_to_high_pct: float | None
    distance_to_low_pct: float | None
    last_price: Number | None
    limit_side: str | None
    limit_basis: str | None
    limit_timestamp: Number | None
    pause_price: Number | None
    listing_market: str | None
    timestamp: Number


class HaltEvent(HaltRow, gc=False, kw_only=True):
    """An item of `halts`: the row of that moment."""

    event: str  # "halted" or "resumed"


def values(state: HaltState, price: Number | None, now: Number) -> tuple[object, ...]:
    """The fields of `HaltRow` in their order.

    Args:
        state: The symbol's.
        price: Its last one; None where there is none.
        now: Market time, ms.
    """
    halted, start, end = state.halted, state.start, state.end
    lasted = None
    if start:
        lasted = max(0, now - start) if halted else max(0, end - start) if end else None
    high, low = state.high, state.low
    return (
        state.symbol,
        state.status,
        reason_of(state.code) if start else None,
        state.code or None,
        state.source or None,
        start or None,
        None if halted else end or None,
        None if halted else state.end_source or None,
        state.expected or None if halted else None,
        state.quote_expected or None if halted else None,
        lasted,
        state.count,
        high or None,
        low or None,
        state.band_timestamp or None,
        (high - price) / price * 100 if high and price else None,
        (price - low) / price * 100 if low and price else None,
        price,
        state.side or None,
        state.basis or None,
        state.side_since or None,
        state.pause_price or None,
        state.market or None,
        now,
    )
