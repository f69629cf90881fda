"""The four bulk endpoints of the provider, read into the table of reference values."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import date, datetime

import msgspec

from mdp.cache.bulk import FloatRow, GroupedBar, GroupedVolume, SnapshotRow, rows
from mdp.cache.rest import RestClient
from mdp.cache.table import ReferenceRow, ReferenceTable
from mdp.observability.loop_lag import StepTimer
from mdp.sessions import NEW_YORK, TradingDay

STATUS_PATH = "/v1/marketstatus/now"
SNAPSHOT_PATH = "/v2/snapshot/locale/us/markets/stocks/tickers"
GROUPED_PATH = "/v2/aggs/grouped/locale/us/market/stocks/"  # + the date
FLOAT_PATH = "/stocks/vX/float"
FLOAT_PAGE_ROWS = 5_000


class Endpoints:
    """Asks one endpoint, checks what comes, puts it into the table and tells the listeners.

    Every method raises RestError where the answer cannot be had, and BodyError where it cannot be read;
    rows read before that stay. Only one body is read at a time, so that a turn of the event loop holds
    one slice of one body.

    Attributes:
        calls: Requests that were answered or given up.
    """

    def __init__(
        self, rest: RestClient, table: ReferenceTable, step: StepTimer, *, include_otc: bool
    ) -> None:
        self.calls = 0
        self._rest, self._table, self._step = rest, table, step
        self._otc = {"include_otc": "true"} if include_otc else {}
        self._reading = asyncio.Lock()

    async def day(self) -> date:
        """The provider's trading day; raises ValueError where it tells no time."""
        return trading_day(await self._call(self._rest.get(STATUS_PATH)))

    async def snapshot(self) -> int:
        """Previous days' bars from the full snapshot; the number of symbols that have one."""
        body = await self._call(self._rest.get(SNAPSHOT_PATH, self._otc))
        found = 0
        number = self._table.rejected.number
        async with self._reading:
            async for part in rows(body, "tickers", SnapshotRow, self._table.rejected, self._step):
                changed: dict[str, ReferenceRow] = {}
                for item in part:
                    symbol, bar = self._table.rejected.symbol(item.ticker), item.prevDay
                    if not symbol or bar is None:
                        if symbol:
                            self._table.rejected.add("missing")
                        continue
                    # All zeros: no previous day. Not a wrong value, but none to use either.
                    if (close := number(bar.c)) and (row := self._table.row(symbol)) is not None:
                        row.prev_day_close = close
                        row.prev_day_open = number(bar.o) or row.prev_day_open
                        row.prev_day_high = number(bar.h) or row.prev_day_high
                        row.prev_day_low = number(bar.l) or row.prev_day_low
                        row.prev_day_volume = number(bar.v) or row.prev_day_volume
                        row.prev_day_vwap = number(bar.vw) or row.prev_day_vwap
                        changed[symbol] = row
                found += len(changed)
                self._table.notify(changed)
        return found

    async def floats(self) -> int:
        """Floats, all pages; the number of symbols that have one."""
        found = 0
        async for body in self._rest.pages(FLOAT_PATH, {"limit": str(FLOAT_PAGE_ROWS)}):
            self.calls += 1
            async with self._reading:
                async for part in rows(body, "results", FloatRow, self._table.rejected, self._step):
                    changed: dict[str, ReferenceRow] = {}
                    for item in part:
                        symbol = self._table.rejected.symbol(item.ticker)
                        value = self._table.rejected.number(item.free_float)
                        if symbol and value and (row := self._table.row(symbol)) is not None:
                            row.free_float = value
                            changed[symbol] = row
                    found += len(changed)
                    self._table.notify(changed)
        return found

    async def session(self, day: date, *, bars: bool) -> dict[str, float]:
        """Volumes (shares) by symbol of one session; empty where there was none.

        Args:
            bars: Give the session's bars to symbols whose previous day the snapshot does not know.
        """
        path = GROUPED_PATH + day.isoformat()
        body = await self._call(self._rest.get(path, {"adjusted": "true", **self._otc}))
        async with self._reading:
            return await (self._bars(body) if bars else self._volumes(body))

    async def _volumes(self, body: bytes) -> dict[str, float]:
        found: dict[str, float] = {}
        symbol_of, amount = self._table.rejected.symbol, self._table.rejected.amount
        async for part in rows(body, "results", GroupedVolume, self._table.rejected, self._step):
            for item in part:
                if (symbol := symbol_of(item.T)) and (volume := amount(item.v)) is not None:
                    found[symbol] = volume
        return found

    async def _bars(self, body: bytes) -> dict[str, float]:
        """As `_volumes`; gives the bars to symbols whose previous day the snapshot does not know."""
        found: dict[str, float] = {}
        symbol_of, amount, number = (
            self._table.rejected.symbol,
            self._table.rejected.amount,
            self._table.rejected.number,
        )
        async for part in rows(body, "results", GroupedBar, self._table.rejected, self._step):
            changed: dict[str, ReferenceRow] = {}
            for item in part:
                if not (symbol := symbol_of(item.T)):
                    continue
                volume = amount(item.v)
                if volume is not None:
                    found[symbol] = volume
                if (close := number(item.c)) and (row := self._table.row(symbol)) is not None:
                    row.prev_day_close = row.prev_day_close or close
                    row.prev_day_open = row.prev_day_open or number(item.o)
                    row.prev_day_high = row.prev_day_high or number(item.h)
                    row.prev_day_low = row.prev_day_low or number(item.l)
                    row.prev_day_volume = row.prev_day_volume or volume or 0
                    row.prev_day_vwap = row.prev_day_vwap or number(item.vw)
                    changed[symbol] = row
            self._table.notify(changed)
        return found

    async def _call(self, answer: Awaitable[bytes]) -> bytes:
        try:
            return await answer
        finally:
            self.calls += 1


class _Status(msgspec.Struct):
    serverTime: str


def trading_day(body: bytes) -> date:
    """The trading day (from 04:00 New York time) of an answer of the market status endpoint.

    Raises:
        ValueError: It tells no time.
    """
    try:
        at = datetime.fromisoformat(msgspec.json.decode(body, type=_Status).serverTime)
        at = at.replace(tzinfo=NEW_YORK) if at.tzinfo is None else at
        return TradingDay.containing(at.timestamp() * 1000).day
    except (msgspec.DecodeError, ValueError, OverflowError, OSError):
        raise ValueError("the market status tells no time") from None
