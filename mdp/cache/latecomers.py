"""Symbols that trade today and were in no bulk answer: asked for by themselves, some dozens at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping

import structlog

from mdp.cache.aside import CacheAside
from mdp.cache.kinds import NOTHING_SECONDS
from mdp.cache.rest import RestError
from mdp.cache.single import MAX_SYMBOLS
from mdp.cache.table import ReferenceRow
from mdp.cache.warmup import Warmup
from mdp.observability.metrics import Metrics

log = structlog.get_logger(__name__)

RETRY_SECONDS = 60.0  # after a batch that could not be had


class Latecomers:
    """Gives them rows in the trading day's table.

    One batch is under way at a time: the floats of all in one request, the daily bars of each in one.

    Args:
        aside: Fetches, once for all who ask.
        seen: The symbols of today.
        clock: Monotonic seconds.

    Attributes:
        asked: Symbols asked for so far.
        failed: Batches that could not be had.
        answered: Symbol -> when it was answered, wall clock (ms), of those of the trading day.
    """

    def __init__(
        self,
        aside: CacheAside,
        seen: Callable[[], Collection[str]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._aside, self._seen, self._clock = aside, seen, clock
        self._book: Warmup | None = None
        self._nothing: dict[str, float] = {}  # symbol without any value -> when to ask again
        self._not_before = 0.0
        self._task: asyncio.Task[None] | None = None
        self.answered: dict[str, int] = {}
        self.asked = 0
        self.failed = 0

    def enter(self, book: Warmup) -> None:
        """Another trading day's values are the ones to complete."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._book = book
        self._nothing.clear()
        self.answered.clear()
        self._not_before = 0.0

    def look(self) -> None:
        """Begin a batch where symbols lack values and nothing else will bring them."""
        book = self._book
        if book is None or (self._task is not None and not self._task.done()):
            return
        sources = book.sources
        if not (sources["sessions"].answered and sources["snapshot"].answered and sources["float"].answered):
            return  # the bulk answers may still bring them
        now = self._clock()
        if now < self._not_before or not book.pending:
            return  # the provider has nothing to ask for
        rows = book.rows
        wanted = [symbol for symbol in self._seen() if symbol not in rows]
        if self._nothing:
            wanted += [symbol for symbol, again in self._nothing.items() if now >= again]
        if wanted:
            batch = wanted[:MAX_SYMBOLS]
            self._task = asyncio.create_task(self._fetch(book, batch), name="reference-latecomers")

    async def stop(self) -> None:
        """Give up the batch under way. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def register(self, metrics: Metrics) -> None:
        """Show its counters."""
        metrics.counters(
            "mdp_reference_latecomers_total",
            "Symbols that traded without being in a bulk answer and were asked for by themselves.",
            (),
            lambda: {(): self.asked},
        )

    async def _fetch(self, book: Warmup, batch: list[str]) -> None:
        self.asked += len(batch)
        sources = book.sources
        have_bars, have_floats = sources["sessions"].state == "done", sources["float"].state == "done"
        try:
            floats: Mapping[str, float] = await self._aside.floats(batch) if have_floats else {}
            found: dict[str, ReferenceRow | None] = dict.fromkeys(batch)
            # Where the provider has no daily bars of all, it is not asked for those of each.
            if have_bars:
                rows = await asyncio.gather(*(self._aside.bars(symbol) for symbol in batch))
                found = dict(zip(batch, rows, strict=True))
        except RestError as exc:
            self.failed += 1
            self._not_before = self._clock() + max(RETRY_SECONDS, exc.retry_after)
            log.warning("reference_latecomers_failed", symbols=len(batch), error=str(exc))
            return
        self._take(book, found, floats)

    def _take(
        self, book: Warmup, found: Mapping[str, ReferenceRow | None], floats: Mapping[str, float]
    ) -> None:
        changed: dict[str, ReferenceRow] = {}
        now_ms = time.time_ns() // 1_000_000
        for symbol, bars in found.items():
            row = book.row(symbol)
            if row is None:  # too many
                continue
            if bars is not None:
                for field in bars.__struct_fields__:
                    if field not in ("free_float", "pending"):
                        setattr(row, field, getattr(bars, field))
            row.free_float = floats.get(symbol, row.free_float)
            row.pending = ()
            self.answered[symbol] = now_ms
            changed[symbol] = row
            if bars is None and not row.free_float:
                self._nothing[symbol] = self._clock() + NOTHING_SECONDS
            else:
                self._nothing.pop(symbol, None)
        book.table.notify(changed)
