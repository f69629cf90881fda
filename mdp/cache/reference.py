"""Reference values of every symbol: the previous day's bar, the average volume, the float.

They belong to a trading day. The day's are fetched in bulk when the process starts (`mdp.cache.warmup`),
or taken from the snapshot file; the next day's from 03:35 New York time on, and they are swapped in by the
reset at 04:00 (`enter`), in one step, before its first bar is looked at. A symbol that is seen and not in
the bulk answers is asked for by itself.

Nothing waits for any of it, and no step of it holds the loop for long.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from datetime import date
from typing import Any

import msgspec
import structlog

from mdp.cache import schemas
from mdp.cache.aside import CacheAside, Day
from mdp.cache.days import Days
from mdp.cache.latecomers import Latecomers
from mdp.cache.rest import RestClient
from mdp.cache.sources import Progress, SourceName
from mdp.cache.table import ALL_PENDING, OnRows, ReferenceRow
from mdp.cache.validate import Rejected
from mdp.cache.warmup import SESSIONS, Warmup
from mdp.exchange_calendar import US_STOCKS, ExchangeCalendar
from mdp.observability.loop_lag import StepTimer
from mdp.observability.metrics import Metrics
from mdp.sessions import sessions_before
from mdp.stage import Health

__all__ = ["Progress", "Reference", "ReferenceRow"]

log = structlog.get_logger(__name__)

RETRY_SECONDS = 2.0  # pause after a round in which something failed; doubles up to
MAX_RETRY_SECONDS = 300.0
ABSENT_RETRY_SECONDS = 1800.0  # for an endpoint that is not there, or has nothing
LOOK_SECONDS = 1.0
FIRST_LOOK_SECONDS = 0.1  # while the trading day is not known
DUMP_VERSION = schemas.REFERENCE
OLDEST_DUMP = (
    3  # that is read as it is; whoever raises the version converts what was before, or raises this, too
)

OnSwap = Callable[[Mapping[str, ReferenceRow]], None]
OnUnknown = Callable[[tuple[str, ...]], None]


class Reference:
    """Fetches and keeps the reference values. A stage.

    Args:
        rest: The provider's REST API; closed by `stop`.
        server_ms: The provider's time, epoch ms; None while it is not known.
        market_ms: The market clock, epoch ms; 0 before the first event.
        market_day: The market clock's trading day; None before the first event.
        seen: The symbols of today, to find those without values.
        calendar: Knows the sessions.
        include_otc: Ask for OTC symbols, too.
        max_symbols: Rows of further symbols are rejected.
        patience_seconds: After this time it counts as ready with what it has, though a slow answer is
            still awaited.
        sleep: Injected by tests; how it waits between rounds.

    Attributes:
        on_rows: Called with what changed, at most 500 symbols at a time.
        on_swap: Called with all rows of another trading day, which replace the old ones; must be quick.
        on_unknown: Called with the fields that a symbol without a row waits for, whenever they change.
        rejected: Values that were not used, by endpoint and reason.
        step: Durations of its steps on the event loop.
        aside: Single lookups, for pages.
    """

    name = "reference"

    def __init__(
        self,
        rest: RestClient,
        *,
        server_ms: Callable[[], float | None] = lambda: None,
        market_ms: Callable[[], float] = lambda: 0,
        market_day: Callable[[], date | None] = lambda: None,
        seen: Callable[[], Collection[str]] = lambda: (),
        calendar: ExchangeCalendar = US_STOCKS,
        include_otc: bool = False,
        max_symbols: int = 100_000,
        patience_seconds: float = 30.0,
        step: StepTimer | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.on_rows: list[OnRows] = []
        self.on_swap: list[OnSwap] = []
        self.on_unknown: list[OnUnknown] = []
        self.rejected = Rejected()
        self.step = step if step is not None else StepTimer()
        self._rest = rest
        self._market_day = market_day
        self._days = Days(server_ms, market_ms, calendar)
        self._calendar = calendar
        self._include_otc, self._max_symbols = include_otc, max_symbols
        self._patience_seconds = patience_seconds
        self._sleep = sleep
        self._current: Warmup | None = None
        self._next: Warmup | None = None
        self._kept: dict[date, Warmup] = {}  # of a file, until their day is wanted
        self._tasks: dict[date, asyncio.Task[None]] = {}  # that fetch a day's values
        self._watch: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._patient = True
        self._told = 0  # calls, in the last line of progress
        self._unknown: tuple[str, ...] | None = None  # as listeners were told
        self.aside = CacheAside(rest, self.rejected, row=self.get, day=self._asking_day)
        self.latecomers = Latecomers(self.aside, seen)

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to fetch in the background; returns at once."""
        if self._watch is None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(self._patience_seconds, self._lose_patience)
            self._unknown = None  # who listens may have counted another process's word until now
            self._tell_unknown()
            self._watch = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Give up what is under way. Safe to call twice, or before `start`."""
        await self._end_fetching()
        await self.latecomers.stop()
        await self.aside.stop()
        await self._rest.close()

    async def pause(self) -> None:
        """Leave bulk answers to another process from now on; the day's values stay. `start` goes on."""
        await self._end_fetching()
        self._next = None

    async def _end_fetching(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        tasks = [*self._tasks.values(), *([self._watch] if self._watch is not None else [])]
        self._tasks, self._watch = {}, None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def enter(self, day: date) -> None:
        """Another trading day began: from now on its values count, be they there or not.

        To be called at the reset, before a bar of the day is looked at. Of the old day nothing stays: its
        previous close would look right.
        """
        if self._current is not None and self._current.day == day:
            return
        if self._next is not None and self._next.day == day:
            self._current, self._next = self._next, None
        else:
            self._current, self._next = self._kept.pop(day, None) or self._warmup(day), None
        self._kept = {kept: book for kept, book in self._kept.items() if kept > day}
        current = self._current
        current.table.on_rows = self.on_rows
        self._fetch(current)
        self.latecomers.enter(current)
        for callback in self.on_swap:
            callback(current.rows)
        self._tell_unknown()
        log.info("reference_day", day=day.isoformat(), symbols=len(current.rows), complete=current.complete)

    def look(self) -> None:
        """See which days' values are wanted by now, and have them fetched. Called once a second."""
        due = self._days.due()
        if due is None:
            return
        day = self._market_day() or due
        self.enter(day)
        if due > day and (self._next is None or self._next.day != due):
            self._next = self._kept.pop(due, None) or self._warmup(due)
            self._fetch(self._next)

    def health(self) -> Health:
        """Ready, with what is there and what is missing."""
        current = self._current
        if current is None:
            return Health(self.ready, "the trading day is not known yet")
        progress = self.progress
        if not self.ready:
            detail = f"warming up: {progress.done} of {progress.total} calls, {progress.symbols} symbols"
        else:
            detail = f"{progress.symbols} symbols, {current.sessions} sessions before {current.day}"
            if self._next is not None:
                detail += f"; {len(self._next.rows)} symbols for {self._next.day}"
        missing = current.missing
        return Health(self.ready, detail + (f"; missing: {', '.join(missing)}" if missing else ""))

    @property
    def ready(self) -> bool:
        """Whether the first round is over (or took too long) and the provider gave anything at all.

        A provider without these endpoints has given its answer, too; one that only fails has not. Where
        nobody tells the day, there is nothing to wait for after a while.
        """
        books = [book for book in (self._current, self._next) if book is not None]
        if not books:
            return not self._patient
        return any((book.rounds > 0 or book.restored or not self._patient) and book.useful for book in books)

    @property
    def warming_up(self) -> bool:
        """Whether values are still on their way."""
        return not self.complete

    @property
    def complete(self) -> bool:
        """Whether every endpoint has answered for the trading day, be it that it has nothing."""
        return self._current is not None and self._current.complete

    @property
    def progress(self) -> Progress:
        """Calls answered and needed for the trading day's values, and symbols known."""
        return self._current.progress if self._current is not None else Progress(0, 0, 0)

    @property
    def day(self) -> date | None:
        """The trading day that the values belong to; None until it is known."""
        return self._current.day if self._current is not None else None

    @property
    def book(self) -> Warmup | None:
        """The trading day's values and how they were fetched; None until the day is known."""
        return self._current

    @property
    def rows(self) -> dict[str, ReferenceRow]:
        """symbol -> its values; rows are changed in place, and replaced on a new trading day."""
        return self._current.rows if self._current is not None else {}

    def get(self, symbol: str) -> ReferenceRow | None:
        """The values of a symbol; None where nothing is known."""
        return self.rows.get(symbol)

    def register(self, metrics: Metrics) -> None:
        """Show its counters and those of its REST client."""
        metrics.gauges(
            "mdp_reference_symbols",
            "Symbols with reference values, of the trading day and of the next one.",
            ("day",),
            lambda: {
                ("current",): len(self.rows),
                ("next",): len(self._next.rows) if self._next is not None else 0,
            },
        )
        metrics.gauges(
            "mdp_reference_complete",
            "1 when an endpoint of the trading day's reference values has answered.",
            ("source",),
            lambda: (
                {(name,): source.answered for name, source in self._current.sources.items()}
                if self._current is not None
                else {}
            ),
        )
        metrics.counters(
            "mdp_reference_rejected_total",
            "Values of REST answers that were missing, wrong or absurd and not used.",
            ("endpoint", "reason"),
            lambda: self.rejected.counts,
        )
        self.aside.register(metrics)
        self.latecomers.register(metrics)
        self._rest.register(metrics)

    # -- over a restart ---------------------------------------------------------------------------

    def dump(self) -> Iterator[list[Any]]:
        """What `load` takes, as records for msgpack of 500 rows at most; nothing while there is none."""
        for book in (self._current, self._next, *self._kept.values()):
            if book is not None and book.rows:
                yield from book.dump(DUMP_VERSION)

    def load(self, records: list[Any], day: str) -> bool:
        """Take back what `dump` gave of trading day `day` and of days after it.

        `day` is the market clock's (ISO), empty while it has none: then the day that is due counts.

        To be called before `start`; callbacks are called at once. What was complete is not fetched again.
        Records of older days or of versions that are not read, and what cannot be read, are left alone.

        Returns:
            Whether some day's values are all there.
        """
        books: list[Warmup] = []
        try:
            heads = [number for number, record in enumerate(records) if record[0] == "head"]
            for first, end in zip(heads, [*heads[1:], len(records)], strict=True):
                if not OLDEST_DUMP <= records[first][1] <= DUMP_VERSION or records[first][2] < day:
                    continue
                _, _, dumped, done, sessions, splits = records[first]
                rows: dict[str, ReferenceRow] = {}
                for _, part in records[first + 1 : end]:
                    rows |= msgspec.convert(part, dict[str, ReferenceRow])
                book = self._warmup(date.fromisoformat(dumped))
                book.restore(
                    msgspec.convert(done, dict[SourceName, int | None]),
                    int(sessions),
                    msgspec.convert(splits, list[tuple[str, str, float]]),
                    rows,
                )
                books.append(book)
        except (ValueError, TypeError, IndexError, msgspec.ValidationError) as exc:
            log.warning("reference_not_restored", error=str(exc))
            return False
        for book in books:
            if book.day.isoformat() == day:
                self._current = book
                book.table.on_rows = self.on_rows
                book.tell_all()
                self.latecomers.enter(book)
                self._tell_unknown()
            else:
                self._kept[book.day] = book
        return any(book.complete for book in books)

    # -- which day, and when ----------------------------------------------------------------------

    def _asking_day(self) -> Day | None:
        current = self._current
        if current is None:
            return None
        sessions = sessions_before(current.day, SESSIONS, self._calendar)
        return Day(current.day, sessions, current.splits)

    # -- fetching ---------------------------------------------------------------------------------

    def _warmup(self, day: date) -> Warmup:
        return Warmup(
            self._rest,
            day,
            rejected=self.rejected,
            step=self.step,
            calendar=self._calendar,
            snapshot_fits=self._days.snapshot_fits,
            include_otc=self._include_otc,
            max_symbols=self._max_symbols,
        )

    def _fetch(self, book: Warmup) -> None:
        """Have a day's values fetched, and no other day's: those of tomorrow are not to wait for old ones."""
        for day in [day for day in self._tasks if day != book.day]:
            self._tasks.pop(day).cancel()
        if self._watch is not None and book.day not in self._tasks and not book.done:
            self._tasks[book.day] = asyncio.create_task(self._fill(book), name=f"reference-{book.day}")

    async def _run(self) -> None:
        while True:
            try:
                self.look()
                if self._current is not None and self._current.day not in self._tasks and self._next is None:
                    self._fetch(self._current)
                self.latecomers.look()
                self._tell_unknown()
                self._tell_progress()
            except Exception as exc:  # a callback of a part that is not ours: the next second may be well
                log.error("reference_look_failed", exc_info=exc)
            await asyncio.sleep(LOOK_SECONDS if self._current is not None else FIRST_LOOK_SECONDS)

    def _tell_unknown(self) -> None:
        """What symbols without a row wait for; it changes a few times a day."""
        pending = self._current.pending if self._current is not None else ALL_PENDING
        if pending != self._unknown:
            self._unknown = pending
            for callback in self.on_unknown:
                callback(pending)

    def _tell_progress(self) -> None:
        """In the log, as long as calls are answered: once a second at most."""
        book = self._current if self._next is None else self._next
        if book is None or book.complete or book.progress.done == self._told:
            return
        progress = book.progress
        self._told = progress.done
        log.info(
            "reference_warming_up",
            day=book.day.isoformat(),
            calls=f"{progress.done} of {progress.total}",
            symbols=progress.symbols,
        )

    async def _fill(self, book: Warmup) -> None:
        """Rounds until everything is there, with growing pauses."""
        pause = RETRY_SECONDS
        while not book.done:
            await book.round()
            progress = book.progress
            log.info(
                "reference_round",
                day=book.day.isoformat(),
                complete=book.complete,
                calls=progress.done,
                symbols=progress.symbols,
                sessions=book.sessions,
                missing=", ".join(book.missing),
            )
            if book.done:
                return
            if book.complete:
                await self._sleep(ABSENT_RETRY_SECONDS)
                book.ask_again_for_absent()
            else:
                await self._sleep(pause * random.uniform(0.75, 1.25))
                pause = min(pause * 2, MAX_RETRY_SECONDS)

    def _lose_patience(self) -> None:
        self._patient = False
