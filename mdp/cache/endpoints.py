"""The bulk endpoints of the provider, read into the table of a trading day's reference values."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import date, timedelta

import msgspec

from mdp.cache import paths
from mdp.cache.bulk import FloatRow, GroupedBar, GroupedVolume, SnapshotRow, SplitRow, rows
from mdp.cache.rest import RestClient
from mdp.cache.splits import Splits
from mdp.cache.table import FLOAT, ReferenceRow, ReferenceTable
from mdp.cache.validate import Rejected
from mdp.observability.loop_lag import StepTimer

PAGE_ROWS = 5_000  # the most that these endpoints give
SPLIT_DAYS = 80  # calendar days of splits: more than 45 sessions
#: Of the closes that the snapshot shares with the previous session, that must be the same.
AGREEING = 0.5
_SAME = 0.005

PrevDays = list[tuple[str, tuple[float, float, float, float, float, float]]]


class Session(msgspec.Struct):
    """Volumes (shares) of one session, by symbol; and who traded in it, nobody knows how much."""

    volumes: dict[str, float]
    refused: set[str]


class Endpoints:
    """Asks one endpoint, checks what comes, puts it into the table and tells the listeners.

    Every method raises RestError where the answer cannot be had, and BodyError where it cannot be read;
    rows read before that stay. Only one body is read at a time, so that a turn of the event loop holds
    one slice of one body.

    Args:
        rest: The provider.
        table: Of trading day `day`.
        day: To which prices and volumes are brought by the splits.
        rejected: Counts what is not used.

    Attributes:
        calls: Requests that were answered or given up.
        splits: Filled by `learn_splits`.
        by_snapshot: Symbols whose previous day is the snapshot's.
    """

    def __init__(
        self,
        rest: RestClient,
        table: ReferenceTable,
        day: date,
        rejected: Rejected,
        step: StepTimer,
        *,
        include_otc: bool,
    ) -> None:
        self.calls = 0
        self.splits = Splits(day)
        self.by_snapshot: set[str] = set()
        self._rest, self._table, self._day, self._step = rest, table, day, step
        self._otc = {"include_otc": "true"} if include_otc else {}
        self._reading = asyncio.Lock()
        self._split, self._snapshot = rejected.at("splits"), rejected.at("snapshot")
        self._grouped, self._float = rejected.at("grouped"), rejected.at("float")

    async def learn_splits(self) -> None:
        """The splits of the last months, up to the trading day."""
        query = {
            "execution_date.gte": (self._day - timedelta(days=SPLIT_DAYS)).isoformat(),
            "execution_date.lte": self._day.isoformat(),
            "limit": str(PAGE_ROWS),
        }
        checks = self._split
        async for body in self._rest.pages(paths.SPLITS, query):
            self.calls += 1
            async with self._reading:
                async for part in rows(body, "results", SplitRow, checks, self._step):
                    for item in part:
                        symbol, executed = checks.symbol(item.ticker), checks.day(item.execution_date)
                        old, new = checks.ratio(item.split_from), checks.ratio(item.split_to)
                        usable = symbol and executed and old and new
                        if usable and executed and not self.splits.add(symbol, executed, old, new):
                            checks.add("absurd")

    async def snapshot(self) -> PrevDays:
        """The previous days' bars of a full snapshot, of whichever session they are: see `take_snapshot`."""
        body = await self._call(self._rest.get(paths.SNAPSHOT, self._otc))
        found: PrevDays = []
        checks = self._snapshot
        async with self._reading:
            async for part in rows(body, "tickers", SnapshotRow, checks, self._step):
                for item in part:
                    if not (symbol := checks.symbol(item.ticker)):
                        continue
                    if item.prevDay is None:
                        checks.add("missing")
                    elif (bar := checks.bar(item.prevDay)) is not None:
                        found.append((symbol, bar))
        return found

    async def take_snapshot(self, found: PrevDays, *, trusted: bool) -> bool:
        """Give the snapshot's previous days to symbols that have none.

        The snapshot does not say of which session `prevDay` is: it is cleared at 03:30 and fills again from
        04:00 New York time (market.md A4), and on a weekend it may be either. So its closes are held
        against those of the previous session's grouped bars.

        Args:
            found: What `snapshot` gave.
            trusted: What to think where there is nothing to compare with.

        Returns:
            Whether it is of the previous session. If not, it was not used.
        """
        known = agreeing = 0
        for start in range(0, len(found), 500):
            with self._step:
                for symbol, bar in found[start : start + 500]:
                    row = self._table.rows.get(symbol)
                    if row is not None and row.prev_day_close and not self.splits.takes_effect(symbol):
                        known += 1
                        agreeing += abs(bar[3] - row.prev_day_close) <= _SAME * row.prev_day_close
            await asyncio.sleep(0)
        if agreeing < AGREEING * known if known else not trusted:
            self._snapshot.add("another day")
            return False
        for start in range(0, len(found), 500):
            with self._step:
                changed: dict[str, ReferenceRow] = {}
                for symbol, bar in found[start : start + 500]:
                    # Whether the provider has adjusted it for tonight's split is not said: better unknown.
                    if self.splits.takes_effect(symbol):
                        continue
                    row = self._table.row(symbol, self._snapshot)
                    if row is not None and not row.prev_day_close:
                        row.take_bar(bar)
                        self.by_snapshot.add(symbol)
                        changed[symbol] = row
                self._table.notify(changed)
            await asyncio.sleep(0)
        return True

    async def floats(self) -> int:
        """Floats, all pages; the number of symbols that have one."""
        found = 0
        checks = self._float
        async for body in self._rest.pages(paths.FLOAT, {"limit": str(PAGE_ROWS)}):
            self.calls += 1
            async with self._reading:
                async for part in rows(body, "results", FloatRow, checks, self._step):
                    changed: dict[str, ReferenceRow] = {}
                    for item in part:
                        symbol, value = checks.symbol(item.ticker), checks.shares(item.free_float)
                        if symbol and value and (row := self._table.row(symbol, checks)) is not None:
                            row.free_float = value * self._float_ratio(symbol, item.effective_date)
                            row.answered(FLOAT)
                            changed[symbol] = row
                    found += len(changed)
                    self._table.notify(changed)
        return found

    async def session(self, day: date, *, bars: bool, adjusted: bool) -> Session:
        """The volumes of one session; empty where there was none.

        Args:
            day: Its date.
            bars: It is the previous session: its bars are the symbols' previous days.
            adjusted: Leave splits to the provider, because they are not known here.
        """
        query = {"adjusted": "true" if adjusted else "false", **self._otc}
        body = await self._call(self._rest.get(paths.GROUPED + day.isoformat(), query))
        splits = Splits(self._day) if adjusted else self.splits
        async with self._reading:
            found = await (self._bars(body, day, splits) if bars else self._volumes(body))
            with self._step:
                for symbol in splits.by_symbol:
                    if symbol in found.volumes:
                        found.volumes[symbol] *= splits.ratio(symbol, day)
        return found

    async def _volumes(self, body: bytes) -> Session:
        found = Session({}, set())
        checks = self._grouped
        async for part in rows(body, "results", GroupedVolume, checks, self._step):
            for item in part:
                if symbol := checks.symbol(item.T):
                    volume = checks.shares(item.v)
                    if volume is None:
                        found.refused.add(symbol)
                    else:
                        found.volumes[symbol] = volume
        return found

    async def _bars(self, body: bytes, day: date, splits: Splits) -> Session:
        found = Session({}, set())
        checks = self._grouped
        async for part in rows(body, "results", GroupedBar, checks, self._step):
            changed: dict[str, ReferenceRow] = {}
            for item in part:
                if not (symbol := checks.symbol(item.T)):
                    continue
                volume = checks.shares(item.v)
                if volume is None:
                    found.refused.add(symbol)
                    item.v = 0  # counted once
                else:
                    found.volumes[symbol] = volume
                bar = checks.bar(item)
                if bar is not None and (row := self._table.row(symbol, checks)) is not None:
                    row.take_bar(bar, splits.ratio(symbol, day))
                    self.by_snapshot.discard(symbol)
                    changed[symbol] = row
            self._table.notify(changed)
        return found

    def new_row(self, symbol: str) -> ReferenceRow | None:
        """The row of a symbol of a session that is not the previous one; None where there are too many."""
        return self._table.row(symbol, self._grouped)

    def _float_ratio(self, symbol: str, effective: object) -> float:
        """By how much the splits since a float's date change it; one without a date is of yesterday."""
        if symbol not in self.splits.by_symbol:
            return 1
        since = self._float.day(effective) if effective is not None else None
        return self.splits.ratio(symbol, since if since is not None else self._day - timedelta(days=1))

    async def _call(self, answer: Awaitable[bytes]) -> bytes:
        try:
            return await answer
        finally:
            self.calls += 1
