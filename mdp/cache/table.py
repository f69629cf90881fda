"""The table of reference values: one row per symbol, what it still waits for, and who is told of changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import msgspec
import structlog

from mdp.cache.validate import Checks
from mdp.events import Number

log = structlog.get_logger(__name__)

NOTIFY_ROWS = 500  # symbols that listeners are told of in one step

ValueT = TypeVar("ValueT")

#: What a row may wait for, by the names of the contract's fields.
PREVIOUS = (
    "prev_day_open", "prev_day_high", "prev_day_low", "prev_day_close", "prev_day_volume", "prev_day_vwap"
)  # fmt: skip
AVERAGE = ("avg_volume",)
FLOAT = ("free_float",)
ALL_PENDING: tuple[str, ...] = PREVIOUS + AVERAGE + FLOAT


class ReferenceRow(msgspec.Struct, array_like=True, gc=False):
    """Reference values of a symbol; 0 where unknown. Prices in USD, volumes and float in shares.

    Numbers that no split changes keep the form they were sent in: existing clients get `10` and no `10.0`
    from a provider that says `10`.

    Attributes:
        pending: Fields that are 0 only because their answer has not come yet. A 0 that is not pending is
            an answer: there is nothing.
    """

    prev_day_open: Number = 0
    prev_day_high: Number = 0
    prev_day_low: Number = 0
    prev_day_close: Number = 0
    prev_day_volume: Number = 0
    prev_day_vwap: Number = 0
    avg_volume: float = 0
    avg_volume_days: int = 0  # sessions that avg_volume is the mean of
    free_float: Number = 0
    pending: tuple[str, ...] = ()

    def take_bar(self, bar: tuple[float, float, float, float, float, float], ratio: float = 1) -> None:
        """Take the previous day's bar (open, high, low, close, volume, VWAP).

        Args:
            bar: Its values as traded.
            ratio: Shares now per share then (`Splits.ratio`).
        """
        opened, high, low, close, volume, vwap = bar
        if ratio != 1:
            opened, high, low, close, vwap = (price / ratio for price in (opened, high, low, close, vwap))
            volume *= ratio
        self.prev_day_open = opened
        self.prev_day_high = high
        self.prev_day_low = low
        self.prev_day_close = close
        self.prev_day_volume = volume
        self.prev_day_vwap = vwap
        self.answered(PREVIOUS)

    def answered(self, fields: tuple[str, ...]) -> bool:
        """Fields do not wait any more. Returns whether they did."""
        waited = self.pending
        if fields[0] not in waited:
            return False
        self.pending = _without(waited, fields)
        return True


_SHARED: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[str, ...]] = {}


def _without(pending: tuple[str, ...], fields: tuple[str, ...]) -> tuple[str, ...]:
    """The same tuple for the same question: eleven thousand rows share a handful."""
    left = _SHARED.get((pending, fields))
    if left is None:
        left = tuple(field for field in pending if field not in fields)
        if len(_SHARED) < 100:
            _SHARED[pending, fields] = left
    return left


OnRows = Callable[[Mapping[str, ReferenceRow]], None]


class ReferenceTable:
    """Rows by symbol, bounded in number.

    Attributes:
        rows: symbol -> its values; rows are changed in place.
        on_rows: Called with what changed, at most 500 symbols at a time.
        pending: What a row waits for that is made now.
    """

    def __init__(self, max_symbols: int, on_rows: list[OnRows] | None = None) -> None:
        self.rows: dict[str, ReferenceRow] = {}
        self.on_rows = on_rows if on_rows is not None else []
        self.pending = ALL_PENDING
        self._max_symbols = max_symbols

    def row(self, symbol: str, checks: Checks) -> ReferenceRow | None:
        """The row of a symbol, made if need be; None, counted, where there are too many."""
        row = self.rows.get(symbol)
        if row is None:
            if len(self.rows) >= self._max_symbols:
                checks.add("too many symbols")
                return None
            row = self.rows[symbol] = ReferenceRow(pending=self.pending)
        return row

    def settle(self, fields: tuple[str, ...]) -> Iterator[None]:
        """No row waits for these fields any more; done in steps, one each `next`."""
        self.pending = _without(self.pending, fields)
        for part in slices(self.rows, NOTIFY_ROWS):
            self.notify({symbol: row for symbol, row in part.items() if row.answered(fields)})
            yield

    def notify(self, changed: Mapping[str, ReferenceRow]) -> None:
        """Tell all listeners; one that raises keeps nobody else from hearing it."""
        if not changed:
            return
        for callback in self.on_rows:
            try:
                callback(changed)
            except Exception as exc:
                log.error("reference_callback_failed", error=repr(exc))


def slices(values: Mapping[str, ValueT], size: int) -> Iterator[dict[str, ValueT]]:
    """Parts of a mapping as it is now: it may change while they are gone through."""
    items = list(values.items())
    for start in range(0, len(items), size):
        yield dict(items[start : start + size])
