"""The reference values of one trading day, for the whole market, in about 35 requests.

- the splits of the last months;
- the grouped daily bars of the 30 sessions before the day: the newest gives the previous day's bar, all of
  them the average volume;
- one full snapshot, for a previous day that the newest session lacks;
- the floats, page by page.

Each may be missing, empty, broken or slow; the others count all the same. What failed is asked for again in
the next round. No step of it holds the loop for long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import date
from typing import Any

import structlog

from mdp.cache.averages import SessionVolumes
from mdp.cache.bulk import BodyError
from mdp.cache.endpoints import Endpoints
from mdp.cache.rest import RestClient, RestError
from mdp.cache.sources import SOURCES, Progress, Source, SourceName
from mdp.cache.splits import Splits
from mdp.cache.table import (
    AVERAGE,
    FLOAT,
    NOTIFY_ROWS,
    PREVIOUS,
    OnRows,
    ReferenceRow,
    ReferenceTable,
    slices,
)
from mdp.cache.tasks import next_turn
from mdp.cache.validate import Rejected
from mdp.exchange_calendar import US_STOCKS, ExchangeCalendar
from mdp.observability.loop_lag import StepTimer
from mdp.sessions import sessions_before

log = structlog.get_logger(__name__)

CONCURRENCY = 4  # bodies in memory at once
SUM_ROWS = 1_000  # added in one step: 1 ms
SESSIONS = 30
MAX_SESSIONS = 45  # asked for, where some turn out to have been none
NOT_FOUND_DAYS = 5  # so many 404 and no session: the endpoint is not there
SPLITS_SECONDS = 10.0  # then the others do not wait for the splits any longer


class Warmup:
    """Fetches and holds one trading day's values.

    Args:
        rest: The provider's REST API.
        day: The trading day, a session.
        calendar: Knows the sessions before it.
        snapshot_fits: Whether the full snapshot's `prevDay` should now be that of the session before `day`,
            by the clock; None where it is not worth asking (it was cleared and fills again at 04:00).
        rejected: Counts what is not used.
        on_rows: Called with what changed, at most 500 symbols at a time.

    Attributes:
        day: As given.
        sources: What has been answered.
        rounds: That are over.
        restored: It came from a file.
        table: The values.
    """

    def __init__(
        self,
        rest: RestClient,
        day: date,
        *,
        rejected: Rejected,
        step: StepTimer,
        calendar: ExchangeCalendar = US_STOCKS,
        snapshot_fits: Callable[[date], bool | None] = lambda _day: False,
        include_otc: bool = False,
        max_symbols: int = 100_000,
        on_rows: list[OnRows] | None = None,
        splits_seconds: float = SPLITS_SECONDS,
    ) -> None:
        self.day = day
        self.sources: dict[SourceName, Source] = {name: Source() for name in SOURCES}
        self.rounds = 0
        self.restored = False
        self.table = ReferenceTable(max_symbols, on_rows)
        self._step = step
        self._calendar = calendar
        self._snapshot_fits = snapshot_fits
        self._splits_seconds = splits_seconds
        self._endpoints = Endpoints(rest, self.table, day, rejected, step, include_otc=include_otc)
        self._restored_sessions = 0  # in averages that came from a file
        self._left_to_provider = False  # sessions were adjusted for splits by the provider
        self._splits_asked, self._newest_asked = asyncio.Event(), asyncio.Event()  # in this round
        self._begin_sessions()

    # -- what there is ----------------------------------------------------------------------------

    @property
    def rows(self) -> dict[str, ReferenceRow]:
        """symbol -> its values; rows are changed in place."""
        return self.table.rows

    @property
    def complete(self) -> bool:
        """Whether every endpoint has answered, be it that it has nothing."""
        return all(source.answered for source in self.sources.values())

    @property
    def done(self) -> bool:
        """Whether every endpoint gave what it should: nothing is left to ask for."""
        return all(source.state == "done" for source in self.sources.values())

    @property
    def useful(self) -> bool:
        """Whether the provider gave anything at all. One without these endpoints has given its answer, too;
        one that only fails has not."""
        return bool(self.rows) or any(self.sources[name].answered for name in SOURCES if name != "splits")

    @property
    def sessions(self) -> int:
        """How many are in the averages."""
        return self._restored_sessions or self._volumes.count

    @property
    def pending(self) -> tuple[str, ...]:
        """What a symbol without a row waits for: all but what the provider does not have at all. The bulk
        answers may bring it yet, or it is asked for by itself."""
        bars = self.sources["sessions"].state != "absent"
        fields = PREVIOUS + AVERAGE if bars else ()
        return fields + FLOAT if self.sources["float"].state != "absent" else fields

    @property
    def previous(self) -> date:
        """The session before the day: the newest that had any trading, where that is known already."""
        return self._volumes.previous or sessions_before(self.day, 1, self._calendar)[0]

    @property
    def by_snapshot(self) -> set[str]:
        """Symbols whose previous day is the snapshot's."""
        return self._endpoints.by_snapshot

    @property
    def adjusted_by_provider(self) -> bool:
        """Whether sessions were adjusted for splits by the provider, because they were not known here."""
        return self._left_to_provider

    @property
    def splits(self) -> Splits | None:
        """The splits up to the day; None while they are not known."""
        return self._endpoints.splits if self.sources["splits"].state == "done" else None

    @property
    def progress(self) -> Progress:
        """Calls answered and needed, and symbols known."""
        left = sum(not source.answered for name, source in self.sources.items() if name != "sessions")
        if not self.sources["sessions"].answered:
            left += max(self._volumes.missing, 1)
        return Progress(self._endpoints.calls, self._endpoints.calls + left, len(self.rows))

    @property
    def missing(self) -> list[str]:
        """What failed or is not there, and why."""
        return [f"{name} ({source.detail})" for name, source in self.sources.items() if source.detail]

    # -- over a restart ---------------------------------------------------------------------------

    def dump(self, version: int) -> Iterator[list[Any]]:
        """A head and then the rows, 500 at most in a record."""
        done = {name: one.fetched_ms for name, one in self.sources.items() if one.state == "done"}
        splits = self._endpoints.splits.dump()
        yield ["head", version, self.day.isoformat(), done, self.sessions, splits]
        for part in slices(self.rows, NOTIFY_ROWS):
            yield ["rows", part]

    def row(self, symbol: str) -> ReferenceRow | None:
        """The row of a symbol, made if need be; None where there are too many."""
        return self._endpoints.new_row(symbol)

    def tell_all(self) -> None:
        """Tell the listeners of every row."""
        for part in slices(self.rows, NOTIFY_ROWS):
            self.table.notify(part)

    def restore(
        self,
        done: Mapping[SourceName, int | None],
        sessions: int,
        splits: list[tuple[str, str, float]],
        rows: dict[str, ReferenceRow],
    ) -> None:
        """Take back what a dump held; `done` says when each source that was done had answered."""
        self.restored = True
        for name, fetched_ms in done.items():
            self.sources[name].state, self.sources[name].fetched_ms = "done", fetched_ms
        self._restored_sessions = sessions if "sessions" in done else 0
        if "splits" in done:
            self._endpoints.splits.restore(splits)
        else:
            self._left_to_provider = "sessions" in done
        self.table.rows.update(rows)

    # -- rounds -----------------------------------------------------------------------------------

    async def round(self) -> bool:
        """Ask for everything that is still wanted or failed; errors become states.

        Returns:
            Whether everything has been answered (`complete`).
        """
        self._splits_asked.clear()
        self._newest_asked.clear()
        async with asyncio.TaskGroup() as group:  # none of them outlives the round, whatever happens
            group.create_task(self._fetch_splits())
            group.create_task(self._fetch_sessions())
            group.create_task(self._fetch_snapshot())
            group.create_task(self._fetch_floats())
        await self._settle_rows()
        if self._left_to_provider and self.sources["splits"].state == "done":
            self._left_to_provider = False
            if self._endpoints.splits.today:
                # Whether the provider had them in when it was asked, nobody knows.
                self._restored_sessions = 0
                self._begin_sessions()
                self.sources["sessions"].state = self.sources["float"].state = "wanted"
        self.rounds += 1
        return self.complete

    def ask_again_for_absent(self) -> None:
        """What was not there may be now: a plan may have been upgraded."""
        for name, source in self.sources.items():
            if source.state == "absent":
                source.state = "wanted"
                if name == "sessions":
                    self._begin_sessions()

    def _begin_sessions(self) -> None:
        self._volumes = SessionVolumes(sessions_before(self.day, MAX_SESSIONS, self._calendar), SESSIONS)

    # -- the four endpoints -----------------------------------------------------------------------

    async def _fetch_splits(self) -> None:
        try:
            async with self._asking("splits") as source:
                if source is None:
                    return
                await self._endpoints.learn_splits()
                source.state = "done"
        finally:
            self._splits_asked.set()

    async def _splits_known(self) -> bool:
        try:
            async with asyncio.timeout(self._splits_seconds):
                await self._splits_asked.wait()
        except TimeoutError:
            pass
        return self.sources["splits"].state == "done"

    async def _fetch_snapshot(self) -> None:
        if self._snapshot_fits(self.day) is None:
            await self._newest_asked.wait()
            known = self._volumes.previous is not None or self.sources["sessions"].state == "done"
            waiting = self.sources["snapshot"]
            if waiting.state != "absent" and known:
                waiting.state, waiting.detail = "done", ""  # the bars of the previous session say it all
            elif not waiting.answered:
                waiting.state, waiting.detail = "failed", "asked for from 04:00 on"
            return
        async with self._asking("snapshot") as source:
            if source is None:
                return
            found = await self._endpoints.snapshot()
            await self._newest_asked.wait()
            fits = await self._endpoints.take_snapshot(found, trusted=bool(self._snapshot_fits(self.day)))
            if (found and fits) or self._volumes.previous is not None:
                source.state = "done"  # where it is of another day the previous session's bars say it all
            else:
                source.state = "absent"
                source.detail = "of another day" if found else "nothing in the answer"

    async def _fetch_floats(self) -> None:
        await self._splits_known()
        async with self._asking("float") as source:
            if source is None:
                return
            self._settle(source, await self._endpoints.floats())
        if self.sources["float"].answered:
            await self._settle_rows()

    async def _fetch_sessions(self) -> None:
        try:
            adjusted = not await self._splits_known()
            async with self._asking("sessions") as source:
                if source is None:
                    return
                await self._ask_sessions(source, adjusted)
        finally:
            self._newest_asked.set()

    async def _ask_sessions(self, source: Source, adjusted: bool) -> None:
        self._left_to_provider = self._left_to_provider or adjusted
        volumes = self._volumes
        volumes.failed.clear()
        slots = asyncio.Semaphore(CONCURRENCY)
        # The previous session first and by itself: its bars are read whole, the others' are not.
        while source.state == "wanted" and (day := volumes.newest_unknown()):
            await self._fetch_session(day, slots, source, bars=True, adjusted=adjusted)
        self._newest_asked.set()
        while source.state == "wanted" and (days := volumes.wanted()):
            async with asyncio.TaskGroup() as group:
                for day in days:
                    group.create_task(self._fetch_session(day, slots, source, bars=False, adjusted=adjusted))
        await self._publish_averages()
        if source.state == "wanted":
            if volumes.failed:
                source.state = "failed"  # why is in its detail
            else:
                self._settle(source, volumes.count)

    async def _fetch_session(
        self, day: date, slots: asyncio.Semaphore, source: Source, *, bars: bool, adjusted: bool
    ) -> None:
        async with slots:
            volumes = self._volumes
            if source.state != "wanted":  # another day's answer told that there are none
                return
            try:
                found = await self._endpoints.session(day, bars=bars, adjusted=adjusted)
            except (RestError, BodyError) as exc:
                if isinstance(exc, RestError) and exc.status == 404:
                    # Some servers answer so for a day without data, and all do without the endpoint.
                    volumes.answered[day] = False
                    if volumes.count == 0 and len(volumes.answered) >= NOT_FOUND_DAYS:
                        self._fail(source, exc)
                elif isinstance(exc, RestError) and exc.absent:
                    self._fail(source, exc)
                else:
                    volumes.failed.add(day)
                    source.detail = f"{day}: {_reason(exc)}"
                return
            refused = found.refused
            for part in slices(found.volumes, SUM_ROWS):
                with self._step:
                    volumes.add(day, part, refused)
                refused = set()
                await next_turn()
            volumes.answered[day] = bool(found.volumes)

    async def _publish_averages(self) -> None:
        complete = not self._volumes.failed
        for part in self._volumes.averages(NOTIFY_ROWS):
            with self._step:
                changed: dict[str, ReferenceRow] = {}
                for symbol, mean, days in part:
                    row = self.table.rows.get(symbol)
                    if row is None:
                        row = self.row(symbol)
                    if row is not None:
                        settled = complete and row.answered(AVERAGE)
                        if settled or (row.avg_volume, row.avg_volume_days) != (mean, days):
                            row.avg_volume, row.avg_volume_days = mean, days
                            changed[symbol] = row
                self.table.notify(changed)
            await next_turn()

    async def _settle_rows(self) -> None:
        """What will not come any more is not waited for."""
        answered = {name for name, source in self.sources.items() if source.answered}
        fields = [(AVERAGE, {"sessions"}), (FLOAT, {"float"}), (PREVIOUS, {"sessions", "snapshot"})]
        for names, sources in fields:
            if sources <= answered:
                for _ in self.table.settle(names):
                    await next_turn()

    # -- helpers ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _asking(self, name: SourceName) -> AsyncIterator[Source | None]:
        """A source to ask, or None where it has answered; an error becomes the source's state."""
        source = self.sources[name]
        if source.answered:
            yield None
            return
        source.state, source.detail = "wanted", ""
        try:
            yield source
            source.fetched_ms = time.time_ns() // 1_000_000
        except (RestError, BodyError) as exc:
            self._fail(source, exc)
        except Exception as exc:  # a fault of ours, or of an odd answer: no reason to lose the others
            log.error("reference_source_failed", source=name, exc_info=exc)
            source.state, source.detail = "failed", "internal error"
            if name == "sessions":  # a session may be half added: begin anew
                self._begin_sessions()

    def _fail(self, source: Source, error: Exception) -> None:
        source.state = "absent" if isinstance(error, RestError) and error.absent else "failed"
        source.detail = _reason(error)

    def _settle(self, source: Source, found: int) -> None:
        source.state, source.detail = ("done", "") if found else ("absent", "nothing in the answer")


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, RestError) else str(error)
