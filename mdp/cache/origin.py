"""Where a symbol's reference values came from: endpoint, trading day, time of the answer, splits."""

from __future__ import annotations

from datetime import date
from typing import Any

from mdp.cache import paths
from mdp.cache.reference import Reference
from mdp.cache.table import AVERAGE, FLOAT, PREVIOUS
from mdp.cache.warmup import Warmup

AVERAGED = (*AVERAGE, "avg_volume_days")
_ENDPOINTS = {
    "splits": paths.SPLITS,
    "snapshot": paths.SNAPSHOT,
    "sessions": f"{paths.GROUPED}<date>",
    "float": paths.FLOAT,
}


class OriginOf:
    """The origins of one symbol's values, as of now. Cheap; made when somebody asks.

    Args:
        reference: Whose values they are.
        symbol: As the provider names it.
        kept: Where values were meanwhile that were not fetched by this process.

    Attributes:
        book: The trading day's values; None until the day is known.
        split_ratio: Shares now per share at the previous session's close.
        fields: Field -> (source, wall clock ms of the answer or None).
    """

    def __init__(self, reference: Reference, symbol: str, *, kept: str = "kept over a restart") -> None:
        self._reference = reference
        self._kept = kept
        self.symbol = symbol
        self.book = book = reference.book
        self.split_ratio = 1.0
        self.fields: dict[str, tuple[str, int | None]] = {}
        if book is None:
            return
        if book.splits is not None and symbol not in book.by_snapshot:
            self.split_ratio = book.splits.ratio(symbol, book.previous)
        self._say(book, book.previous)

    def _say(self, book: Warmup, day: date) -> None:
        alone = self._reference.latecomers.answered.get(self.symbol)
        adjusted = "adjusted by the provider" if book.adjusted_by_provider else "as traded"
        sessions = book.sources["sessions"].fetched_ms
        previous = (f"REST grouped daily bars of {day}, {adjusted}", sessions)
        average = (f"REST grouped daily bars up to {day}, {adjusted}", sessions)
        floated = ("REST float", book.sources["float"].fetched_ms)
        if alone is not None:
            previous = average = (f"REST daily bars of {self.symbol} up to {day}", alone)
            floated = (f"REST float of {self.symbol}", alone)
        elif self.symbol in book.by_snapshot:
            previous = ("REST snapshot, prevDay", book.sources["snapshot"].fetched_ms)
        elif book.restored:  # whose were fetched alone, or from the snapshot, the file does not say
            kept = f"REST daily bars up to {day}, {self._kept}"
            previous = average = (kept, sessions)
        for names, origin in ((PREVIOUS, previous), (AVERAGED, average), (FLOAT, floated)):
            self.fields |= dict.fromkeys(names, origin)
        self.fields["pending"] = ("state of the requests for reference values", None)

    def describe(self) -> dict[str, Any]:
        """For the answer: the day, each endpoint with its state, the splits; secrets are in none of it."""
        book = self.book
        if book is None:
            return {"trading_day": None, "values": None, "sources": {}, "splits": [], "split_ratio": 1.0}
        row = book.rows.get(self.symbol)
        splits = {} if book.splits is None else book.splits.by_symbol.get(self.symbol, {})
        return {
            "trading_day": book.day.isoformat(),
            "previous_session": book.previous.isoformat(),
            "sessions": book.sessions,
            "restored": book.restored,
            "adjusted_by_provider": book.adjusted_by_provider,
            "asked_alone": self.symbol in self._reference.latecomers.answered,
            "values": None if row is None else {f: getattr(row, f) for f in row.__struct_fields__},
            "sources": {
                name: {
                    "endpoint": f"GET {_ENDPOINTS[name]}",
                    "state": source.state,
                    "detail": source.detail,
                    "fetched_at": source.fetched_ms,
                }
                for name, source in book.sources.items()
            },
            "splits": [
                {"executed": day.isoformat(), "ratio": ratio} for day, ratio in sorted(splits.items())
            ],
            "split_ratio": self.split_ratio,
        }
