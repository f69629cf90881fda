"""The table of reference values: one row per symbol, and who is told of changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import msgspec
import structlog

from mdp.cache.bulk import Rejected

log = structlog.get_logger(__name__)

NOTIFY_ROWS = 500  # symbols that listeners are told of in one step

ValueT = TypeVar("ValueT")


class ReferenceRow(msgspec.Struct, array_like=True, gc=False):
    """Reference values of a symbol; 0 where unknown. Prices in USD, volumes and float in shares."""

    prev_day_open: float = 0
    prev_day_high: float = 0
    prev_day_low: float = 0
    prev_day_close: float = 0
    prev_day_volume: float = 0
    prev_day_vwap: float = 0
    avg_volume: float = 0
    avg_volume_days: int = 0  # sessions that avg_volume is the mean of
    free_float: float = 0


OnRows = Callable[[Mapping[str, ReferenceRow]], None]


class ReferenceTable:
    """Rows by symbol, bounded in number.

    Attributes:
        rows: symbol -> its values; rows are changed in place.
        on_rows: Called with what changed, at most 500 symbols at a time.
        rejected: Values that were not used, by reason.
    """

    def __init__(self, max_symbols: int) -> None:
        self.rows: dict[str, ReferenceRow] = {}
        self.on_rows: list[OnRows] = []
        self.rejected = Rejected()
        self._max_symbols = max_symbols

    def row(self, symbol: str) -> ReferenceRow | None:
        """The row of a symbol, made if need be; None, counted, where there are too many."""
        row = self.rows.get(symbol)
        if row is None:
            if len(self.rows) >= self._max_symbols:
                self.rejected.add("too many symbols")
                return None
            row = self.rows[symbol] = ReferenceRow()
        return row

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
