"""What of a REST answer is used: bounds on every number, and a count of what was not, by endpoint and reason.

The provider's answers are taken for what somebody else says: a wrong previous close would put a symbol on
top of a board for a whole day. What is refused is unknown, which the rows say, and never a number.
"""

from __future__ import annotations

from datetime import date
from typing import Any

from mdp.feeds import is_symbol

#: USD. The dearest listed share costs below a million; ten times that was scaled or parsed wrongly.
LARGEST_PRICE = 10_000_000.0
#: Shares, of a day or outstanding. The largest float is some 2e11.
LARGEST_SHARES = 1e13
#: A price of a day's bar is not further from its close than this factor.
LARGEST_RANGE = 1_000.0
#: New shares per old one, or old ones per new one, in a split.
LARGEST_RATIO = 100_000.0


class Rejected:
    """What was not used, counted. One for all endpoints.

    Attributes:
        counts: (endpoint, reason) -> values or rows.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}

    def at(self, endpoint: str) -> Checks:
        """The checks of one endpoint's values."""
        return Checks(self, endpoint)


class Checks:
    """Decides about single values of one endpoint. Whatever it refuses is counted once."""

    __slots__ = ("_endpoint", "_rejected")

    def __init__(self, rejected: Rejected, endpoint: str) -> None:
        self._rejected = rejected
        self._endpoint = endpoint

    def add(self, reason: str) -> None:
        """Count one value or row that is not used."""
        counts, key = self._rejected.counts, (self._endpoint, reason)
        counts[key] = counts.get(key, 0) + 1

    def price(self, value: Any) -> float:
        """`value` if it can be a price in USD, else 0 (unknown)."""
        number = self._amount(value, LARGEST_PRICE)
        if number is None:
            return 0
        if not number:
            self.add("zero")
        return number

    def shares(self, value: Any) -> float | None:
        """`value` if it can be a number of shares, 0 included; else None."""
        return self._amount(value, LARGEST_SHARES)

    def ratio(self, value: Any) -> float:
        """`value` if it can be one side of a split's ratio, else 0."""
        number = self._amount(value, LARGEST_RATIO)
        if number == 0:
            self.add("zero")
        return number or 0

    def symbol(self, value: Any) -> str:
        """`value` if it can be a symbol (`docs/feeds.md`), else the empty string."""
        if type(value) is str and is_symbol(value):
            return value
        self.add("symbol")
        return ""

    def day(self, value: Any) -> date | None:
        """`value` if it is a date such as 2026-03-10, else None."""
        if type(value) is str and len(value) == 10:
            try:
                return date.fromisoformat(value)
            except ValueError:
                pass
        self.add("missing" if value is None else "not a date")
        return None

    def bar(self, bar: Any) -> tuple[float, float, float, float, float, float] | None:
        """Open, high, low, close, volume and VWAP of an object with the wire's one-letter fields.

        None where there is no usable close: all zeros mean that there was no such day, and are no fault.
        Others that cannot be used are 0. High and low go together.
        """
        if bar.c == 0 and not (bar.o or bar.h or bar.l or bar.v):
            return None
        close = self.price(bar.c)
        if not close:
            return None
        opened, high, low, vwap = (self._near(value, close) for value in (bar.o, bar.h, bar.l, bar.vw))
        if high and low and high < low:
            self.add("high below low")
            high = low = 0
        return opened, high, low, close, self.shares(bar.v) or 0, vwap

    def _near(self, value: Any, close: float) -> float:
        price = self.price(value)
        if price and not close / LARGEST_RANGE <= price <= close * LARGEST_RANGE:
            self.add("far from the close")
            return 0
        return price

    def _amount(self, value: Any, largest: float) -> float | None:
        kind = type(value)
        if kind is not float and kind is not int:
            self.add("missing" if value is None else "not a number")
        elif 0 <= value <= largest:
            return value  # type: ignore[no-any-return]
        elif value != value:
            self.add("not a number")
        else:
            self.add("negative" if value < 0 else "absurd")
        return None
