"""Reference values of every symbol: the previous day's bar, the average volume, the float.

Fetched in bulk when the process starts, from four endpoints of the provider:

- market status, for the provider's trading day;
- one full snapshot, for the previous day's bars;
- the grouped daily bars of the last 30 completed sessions before the trading day, for the average
  volume, and for a previous day's bar that the snapshot lacks;
- the float, page by page.

Each may be missing, empty, broken or slow; the others count all the same. What failed is asked for
again, for ever, with growing pauses. Nothing waits for it, and no step of it holds the loop for long.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import date
from typing import Any, Literal

import msgspec
import structlog

from mdp.cache.averages import SessionVolumes
from mdp.cache.bulk import BodyError
from mdp.cache.endpoints import Endpoints
from mdp.cache.rest import RestClient, RestError
from mdp.cache.table import NOTIFY_ROWS, ReferenceRow, ReferenceTable, slices
from mdp.observability.loop_lag import StepTimer
from mdp.observability.metrics import Metrics
from mdp.stage import Health

__all__ = ["Progress", "Reference", "ReferenceRow"]

log = structlog.get_logger(__name__)

CONCURRENCY = 4  # bodies in memory at once
SUM_ROWS = 4_000
NOT_FOUND_DAYS = 5  # so many 404 and no session: the endpoint is not there
RETRY_SECONDS = 2.0  # pause after a round in which something failed; doubles up to
MAX_RETRY_SECONDS = 300.0
ABSENT_RETRY_SECONDS = 1800.0  # for an endpoint that is not there, or has nothing
DUMP_VERSION = 1

SourceName = Literal["day", "snapshot", "sessions", "float"]


class Progress(msgspec.Struct, frozen=True):
    """How far the warm-up is. `total` is what is known to be needed now and may still grow."""

    done: int  # calls answered
    total: int
    symbols: int


class _Source(msgspec.Struct):
    """One kind of value: `wanted` until it is `done`, `failed` (asked again soon) or `absent` (later)."""

    state: str = "wanted"
    detail: str = ""


class Reference:
    """Fetches and keeps the reference values. A stage.

    Args:
        rest: The provider's REST API; closed by `stop`.
        today: The market clock's trading day, used when the provider does not tell its own; None while
            there is none.
        include_otc: Ask for OTC symbols, too.
        max_symbols: Rows of further symbols are rejected.
        patience_seconds: After this time it counts as ready with what it has, though a slow answer is
            still awaited.
        sleep: Injected by tests; how it waits between rounds.

    Attributes:
        on_rows: Called with what changed, at most 500 symbols at a time.
        rejected: Values that were not used, by reason.
        step: Durations of its steps on the event loop.
        day: The trading day that the values belong to; None until it is known.
    """

    name = "reference"

    def __init__(
        self,
        rest: RestClient,
        *,
        today: Callable[[], date | None] = lambda: None,
        include_otc: bool = False,
        max_symbols: int = 100_000,
        patience_seconds: float = 30.0,
        step: StepTimer | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._table = ReferenceTable(max_symbols)
        self.on_rows = self._table.on_rows
        self.rejected = self._table.rejected
        self.step = step if step is not None else StepTimer()
        self.day: date | None = None
        self._rest, self._today = rest, today
        self._endpoints = Endpoints(rest, self._table, self.step, include_otc=include_otc)
        self._patience_seconds = patience_seconds
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._patient = True
        self._rounds = 0
        self._forget()

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to fetch in the background; returns at once."""
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(self._patience_seconds, self._lose_patience)
            self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Give up what is under way. Safe to call twice, or before `start`."""
        if self._patience is not None:
            self._patience.cancel()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._rest.close()

    def renew(self, day: date) -> None:
        """Fetch everything anew for another trading day; the old values stay until the new ones come."""
        self._expire()
        self.day = day
        self._sources["day"].state = "done"
        if self._task is not None:
            self._task.cancel()
            self._task = asyncio.create_task(self._run(), name=self.name)

    def health(self) -> Health:
        """Ready, with what is there and what is missing."""
        progress = self.progress
        if not self.ready:
            detail = f"warming up: {progress.done} of {progress.total} calls, {progress.symbols} symbols"
        else:
            sessions = self._restored_sessions or self._volumes.count
            detail = f"{progress.symbols} symbols, {sessions} sessions before {self.day or 'an unknown day'}"
        missing = [f"{name} ({source.detail})" for name, source in self._sources.items() if source.detail]
        return Health(self.ready, detail + (f"; missing: {', '.join(missing)}" if missing else ""))

    @property
    def ready(self) -> bool:
        """Whether the first round is over (or took too long) and the provider gave anything at all.

        A provider without these endpoints has given its answer, too; one that only fails has not.
        """
        answered = any(
            source.state in ("done", "absent") for name, source in self._sources.items() if name != "day"
        )
        over = self._rounds > 0 or self._loaded or not self._patient
        return over and (answered or bool(self.rows) or bool(self._stale))

    @property
    def warming_up(self) -> bool:
        """Whether values are still on their way."""
        return not self.complete

    @property
    def complete(self) -> bool:
        """Whether every endpoint has answered, be it that it has nothing."""
        return all(source.state in ("done", "absent") for source in self._sources.values())

    @property
    def progress(self) -> Progress:
        """Calls answered and needed, and symbols known."""
        open_states = ("wanted", "failed")
        single = [source for name, source in self._sources.items() if name != "sessions"]
        left = sum(source.state in open_states for source in single)
        if self._sources["sessions"].state in open_states:
            left += max(self._volumes.missing, 1)
        return Progress(self._endpoints.calls, self._endpoints.calls + left, len(self.rows))

    @property
    def rows(self) -> dict[str, ReferenceRow]:
        """symbol -> its values; rows are changed in place, and replaced on a new trading day."""
        return self._table.rows

    def get(self, symbol: str) -> ReferenceRow | None:
        """The values of a symbol; None where nothing is known."""
        return self.rows.get(symbol)

    def register(self, metrics: Metrics) -> None:
        """Show its counters and those of its REST client."""
        metrics.gauges(
            "mdp_reference_symbols", "Symbols with reference values.", (), lambda: {(): len(self.rows)}
        )
        metrics.gauges(
            "mdp_reference_complete",
            "1 when every endpoint of reference values has answered.",
            ("source",),
            lambda: {(name,): s.state in ("done", "absent") for name, s in self._sources.items()},
        )
        metrics.counters(
            "mdp_reference_rejected_total",
            "Reference values that were missing, wrong or absurd and not used.",
            ("reason",),
            lambda: self.rejected.counts,
        )
        self._rest.register(metrics)

    # -- over a restart ---------------------------------------------------------------------------

    def dump(self) -> Iterator[list[Any]]:
        """What `load` takes, as records for msgpack of 500 rows at most; nothing while the day is unknown."""
        if self.day is None or not self.rows:
            return
        done = [name for name, source in self._sources.items() if source.state == "done"]
        sessions = self._restored_sessions or self._volumes.count
        yield ["head", DUMP_VERSION, self.day.isoformat(), done, sessions]
        for part in slices(self.rows, NOTIFY_ROWS):
            yield ["rows", part]

    def load(self, records: list[Any], day: str) -> None:
        """Take back what `dump` gave, if it is of trading day `day` (ISO); callbacks are called at once.

        To be called before `start`. What was complete is not fetched again, unless the provider turns
        out to be on another trading day. Records of another day or version, and what cannot be read,
        are left alone.
        """
        try:
            _, version, dumped, done, sessions = records[0]
            if version != DUMP_VERSION or dumped != day:
                return
            parts = [msgspec.convert(part, dict[str, ReferenceRow]) for _, part in records[1:]]
            self.day = date.fromisoformat(day)
            kept = msgspec.convert(done, list[SourceName])
            self._restored_sessions = int(sessions)
        except (ValueError, TypeError, IndexError, msgspec.ValidationError) as exc:
            log.warning("reference_not_restored", error=str(exc))
            self._forget()
            self.day = None
            return
        for part in parts:
            self.rows.update(part)
            self._table.notify(part)
        for name in kept:
            self._sources[name].state = "done"
        if "sessions" not in kept:
            self._restored_sessions = 0
        self._sources["day"].state = "wanted"  # the provider may have moved on meanwhile
        self._loaded = True

    # -- rounds -----------------------------------------------------------------------------------

    async def warm_up(self) -> bool:
        """One round: ask for everything that is still wanted or failed; errors become states.

        Returns:
            Whether everything has been answered (`complete`).
        """
        if self._loaded:  # values are there: is it still their day?
            await self._learn_day()
        async with asyncio.TaskGroup() as group:  # none of them outlives the round, whatever happens
            group.create_task(self._fetch_sessions())
            group.create_task(self._fetch_snapshot())
            group.create_task(self._fetch_floats())
        self._rounds += 1
        await self._drop_stale()
        log.info("reference_round", complete=self.complete, detail=self.health().detail)
        return self.complete

    async def _run(self) -> None:
        pause = RETRY_SECONDS
        while True:
            await self.warm_up()
            states = {source.state for source in self._sources.values()}
            if states == {"done"}:
                return
            if states <= {"done", "absent"}:
                await self._sleep(ABSENT_RETRY_SECONDS)
                for source in self._sources.values():
                    if source.state == "absent":
                        source.state = "wanted"
                if self._sources["sessions"].state == "wanted":
                    self._volumes = SessionVolumes()
            else:
                await self._sleep(pause * random.uniform(0.75, 1.25))
                pause = min(pause * 2, MAX_RETRY_SECONDS)

    def _lose_patience(self) -> None:
        self._patient = False

    def _forget(self) -> None:
        self._sources: dict[SourceName, _Source] = {
            "day": _Source(), "snapshot": _Source(), "sessions": _Source(), "float": _Source()
        }  # fmt: skip
        self._volumes = SessionVolumes()
        self._restored_sessions = 0  # in averages that came from a dump
        self._stale: dict[str, ReferenceRow] = {}  # values of another day, until the new ones are there
        self._loaded = False

    def _expire(self) -> None:
        """Begin another trading day: what there is belongs to the old one."""
        old = self._stale | self.rows
        self._forget()
        self._stale, self._table.rows = old, {}

    # -- the four endpoints -----------------------------------------------------------------------

    async def _learn_day(self) -> None:
        source = self._sources["day"]
        if source.state == "done":
            return
        day: date | None = None
        try:
            day = await self._endpoints.day()
        except (RestError, ValueError) as exc:
            self._fail(source, exc)
        if day is None:
            day = self._today()
            if day is None:
                source.state = "failed"
                return
        if self.day not in (None, day):
            self._expire()
            source = self._sources["day"]
        self.day = day
        source.state, source.detail = "done", ""

    async def _fetch_snapshot(self) -> None:
        async with self._asking("snapshot") as source:
            if source is None:
                return
            self._settle(source, await self._endpoints.snapshot())

    async def _fetch_floats(self) -> None:
        async with self._asking("float") as source:
            if source is None:
                return
            self._settle(source, await self._endpoints.floats())

    async def _fetch_sessions(self) -> None:
        await self._learn_day()
        async with self._asking("sessions") as source:
            if source is None or self.day is None:
                return
            volumes = self._volumes
            volumes.failed.clear()
            slots = asyncio.Semaphore(CONCURRENCY)
            # The previous session first and by itself: its bars are read whole, the others' are not.
            while source.state == "wanted" and (day := volumes.newest_unknown(self.day)):
                await self._fetch_session(day, slots, source, bars=True)
            while source.state == "wanted" and (days := volumes.wanted(self.day)):
                async with asyncio.TaskGroup() as group:
                    for day in days:
                        group.create_task(self._fetch_session(day, slots, source))
            await self._publish_averages()
            if source.state == "wanted":
                if volumes.failed:
                    source.state = "failed"  # why is in its detail
                else:
                    self._settle(source, volumes.count)

    async def _fetch_session(
        self, day: date, slots: asyncio.Semaphore, source: _Source, *, bars: bool = False
    ) -> None:
        async with slots:
            if source.state != "wanted":  # another day's answer told that there are none
                return
            try:
                found = await self._endpoints.session(day, bars=bars)
            except (RestError, BodyError) as exc:
                if isinstance(exc, RestError) and exc.status == 404:
                    # Some servers answer so for a day without data, and all do without the endpoint.
                    self._volumes.answered[day] = False
                    if self._volumes.count == 0 and len(self._volumes.answered) >= NOT_FOUND_DAYS:
                        self._fail(source, exc)
                elif isinstance(exc, RestError) and exc.absent:
                    self._fail(source, exc)
                else:
                    self._volumes.failed.add(day)
                    source.detail = f"{day}: {_reason(exc)}"
                return
            for part in slices(found, SUM_ROWS):
                with self.step:
                    self._volumes.add(part)
                await asyncio.sleep(0)
            self._volumes.answered[day] = bool(found)

    async def _publish_averages(self) -> None:
        with self.step:
            averages = self._volumes.averages()
        for start in range(0, len(averages), NOTIFY_ROWS):
            with self.step:
                changed: dict[str, ReferenceRow] = {}
                for symbol, mean, days in averages[start : start + NOTIFY_ROWS]:
                    row = self._table.row(symbol)
                    if row is not None and (row.avg_volume, row.avg_volume_days) != (mean, days):
                        row.avg_volume, row.avg_volume_days = mean, days
                        changed[symbol] = row
                self._table.notify(changed)
            await asyncio.sleep(0)

    async def _drop_stale(self) -> None:
        """Whoever still has values of another day must not keep them: they would look right."""
        stale, self._stale = self._stale, {}
        blank = {symbol: ReferenceRow() for symbol in stale if symbol not in self.rows}
        for part in slices(blank, NOTIFY_ROWS):
            self._table.notify(part)
            await asyncio.sleep(0)

    # -- helpers ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _asking(self, name: SourceName) -> AsyncIterator[_Source | None]:
        """A source to ask, or None where it has answered; an error becomes the source's state."""
        source = self._sources[name]
        if source.state in ("done", "absent"):
            yield None
            return
        source.state, source.detail = "wanted", ""
        try:
            yield source
        except (RestError, BodyError) as exc:
            self._fail(source, exc)
        except Exception as exc:  # a fault of ours, or of an odd answer: no reason to lose the others
            log.error("reference_source_failed", source=name, exc_info=exc)
            source.state, source.detail = "failed", "internal error"
            if name == "sessions":  # a session may be half added: begin anew
                self._volumes = SessionVolumes()

    def _fail(self, source: _Source, error: Exception) -> None:
        source.state = "absent" if isinstance(error, RestError) and error.absent else "failed"
        source.detail = _reason(error)

    def _settle(self, source: _Source, found: int) -> None:
        source.state, source.detail = ("done", "") if found else ("absent", "nothing in the answer")


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, RestError) else str(error)
