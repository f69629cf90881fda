"""The cache-aside layer: reference values one by one, for pages and for symbols the warm-up did not bring.

`get` answers from what is kept. What is not, is fetched once for all who ask at the same time; that there
is nothing is kept, too. Nothing here waits for anything but the provider, and nobody has to call it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

import msgspec
import structlog

from mdp.cache import single
from mdp.cache.kinds import KINDS, NOTHING_SECONDS, Kind
from mdp.cache.rest import RestClient, RestError
from mdp.cache.splits import Splits
from mdp.cache.table import AVERAGE, FLOAT, PREVIOUS, ReferenceRow
from mdp.cache.validate import Rejected
from mdp.feeds import is_symbol
from mdp.observability.metrics import Metrics

log = structlog.get_logger(__name__)

MAX_ENTRIES = 20_000
PATIENCE_SECONDS = 15.0
#: Different questions under way at once. Those that wait hold next to nothing; more is somebody's attack.
MAX_FLIGHTS = 2_000
#: An expired value is better than none while the provider fails, up to this multiple of its time to live.
STALE_TIMES = 3.0

#: Kinds of the trading day's table: kind -> the fields of its row.
BY_DAY = {"snapshot": PREVIOUS, "avg_volume": AVERAGE, "free_float": FLOAT}


class PreviousDay(msgspec.Struct, frozen=True):
    """The bar of the session before the trading day; USD and shares, adjusted for splits."""

    open: float
    high: float
    low: float
    close: float
    volume: float
    vwap: float


class AverageVolume(msgspec.Struct, frozen=True):
    """Mean volume (shares) of the last `days` completed sessions."""

    volume: float
    days: int


class Day(NamedTuple):
    """What a question about a trading day's values rests on."""

    day: date
    sessions: Sequence[date]  # those of the average, newest first
    splits: Splits | None  # None: not known, the provider adjusts


class _Entry(NamedTuple):
    value: Any  # None: there is nothing
    expires: float  # monotonic seconds
    worthless: float  # from then on it is not even given while the provider fails


_Key = tuple[str, str, date | None]


class CacheAside:
    """See the module.

    Args:
        rest: The provider; not closed here.
        rejected: Counts what is not used.
        row: The trading day's row of a symbol, None where there is none.
        day: The trading day and what belongs to it; None while it is not known.
        patience_seconds: For which an asker waits; the fetch goes on.
        clock: Monotonic seconds.

    Attributes:
        lookups: (kind, hit|nothing|fetched|failed|stale) -> how often.
    """

    def __init__(
        self,
        rest: RestClient,
        rejected: Rejected,
        *,
        row: Callable[[str], ReferenceRow | None] = lambda _symbol: None,
        day: Callable[[], Day | None] = lambda: None,
        max_entries: int = MAX_ENTRIES,
        patience_seconds: float = PATIENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rest, self._rejected = rest, rejected
        self._row, self._day = row, day
        self._max_entries = max_entries
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._entries: OrderedDict[_Key, _Entry] = OrderedDict()  # the least recently used first
        self._flights: dict[_Key, asyncio.Task[Any]] = {}
        self.lookups: dict[tuple[str, str], int] = {}

    def __len__(self) -> int:
        """Answers that are kept."""
        return len(self._entries)

    async def get(self, kind: str, symbol: str = "") -> Any:
        """A value of a kind (`mdp.cache.kinds`), or None where the provider says that there is nothing.

        `snapshot` gives a `PreviousDay`, `avg_volume` an `AverageVolume`, `free_float` a number of shares.

        Raises:
            KeyError: There is no such kind.
            ValueError: The symbol cannot be one, or the kind has none.
            RestError: The answer cannot be had now, and none is kept.
        """
        if kind in BY_DAY:
            return await self._of_day(kind, symbol)
        return await self._aside(KINDS[kind], symbol, None)

    def peek(self, kind: str, symbol: str = "") -> Any | None:
        """What is kept and has not expired, without asking anybody; None where nothing is."""
        entry = self._entries.get((kind, symbol, None))
        return entry.value if entry is not None and self._clock() < entry.expires else None

    def put(self, kind: str, symbol: str, value: Any | None, day: date | None = None) -> None:
        """Keep an answer that was got otherwise; None is "nothing"."""
        key = (kind, symbol, day)
        ttl = NOTHING_SECONDS if value is None else KINDS[kind].ttl_seconds
        now = self._clock()
        self._entries[key] = _Entry(value, now + ttl, now + ttl * STALE_TIMES)
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    async def bars(self, symbol: str) -> ReferenceRow | None:
        """A symbol's previous day and average volume on the trading day, asked for alone.

        Raises:
            RestError: The answer cannot be had now, or the trading day is not known.
        """
        day = self._known_day()
        return await self._aside(KINDS["bars"], symbol, day)

    async def floats(self, symbols: Sequence[str]) -> Mapping[str, float]:
        """Floats (shares) of symbols on the trading day, 50 in one request; who has none is left out.

        Raises:
            RestError: The answer cannot be had now, or the trading day is not known.
        """
        day = self._known_day()
        found: dict[str, float] = {}
        checks = self._rejected.at("float")
        for start in range(0, len(symbols), single.MAX_SYMBOLS):
            part = symbols[start : start + single.MAX_SYMBOLS]
            answer = await single.floats(self._rest, part, day.day, day.splits, checks)
            for symbol in part:
                self.put("free_float", symbol, answer.get(symbol), day.day)
            found |= answer
        return found

    async def stop(self) -> None:
        """Give up what is under way; who waits for it is cancelled. Safe to call twice."""
        flights = list(self._flights.values())
        for task in flights:
            task.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def register(self, metrics: Metrics) -> None:
        """Show its counters."""
        metrics.counters(
            "mdp_reference_lookups_total",
            "Reference values asked for one by one, by kind and where the answer came from.",
            ("kind", "result"),
            lambda: self.lookups,
        )
        metrics.gauges(
            "mdp_reference_entries", "Answers kept of single lookups.", (), lambda: {(): len(self._entries)}
        )

    # -- ------------------------------------------------------------------------------------------

    async def _of_day(self, kind: str, symbol: str) -> Any | None:
        row = self._row(symbol)
        if row is not None and BY_DAY[kind][0] not in row.pending:
            self._count(kind, "hit")
            return _value(kind, row)
        if kind == "free_float":
            return await self._aside(KINDS[kind], symbol, self._known_day())
        found = await self.bars(symbol)
        return None if found is None else _value(kind, found)

    def _known_day(self) -> Day:
        day = self._day()
        if day is None:
            raise RestError("reference", "the trading day is not known yet", asked=False)
        return day

    async def _aside(self, kind: Kind, symbol: str, day: Day | None) -> Any | None:
        if kind.market_wide == bool(symbol) or (symbol and not is_symbol(symbol)):
            raise ValueError(f"{kind.name} of {symbol[:40]!r}: not a symbol")
        key = (kind.name, symbol, day.day if day is not None else None)
        entry = self._entries.get(key)
        now = self._clock()
        if entry is not None and now < entry.expires:
            self._entries.move_to_end(key)
            self._count(kind.name, "nothing" if entry.value is None else "hit")
            return entry.value
        flight = self._flights.get(key)
        if flight is None:
            if len(self._flights) >= MAX_FLIGHTS:
                raise RestError(kind.path, "too many lookups at once", asked=False)
            flight = asyncio.create_task(self._fetch(kind, symbol, day), name=f"lookup-{kind.name}")
            self._flights[key] = flight
            flight.add_done_callback(lambda task: self._landed(key, task))
        try:
            async with asyncio.timeout(self._patience_seconds):
                # One who goes away must not take the answer from the others.
                return await asyncio.shield(flight)
        except (RestError, TimeoutError) as exc:
            if entry is not None and now < entry.worthless:
                self._count(kind.name, "stale")
                return entry.value
            if isinstance(exc, TimeoutError):  # it goes on, and who asks later may find it
                raise RestError(kind.path or kind.name, "no answer yet") from None
            raise

    def _landed(self, key: _Key, task: asyncio.Task[Any]) -> None:
        self._flights.pop(key, None)
        if not task.cancelled():
            task.exception()  # all who asked may be gone

    async def _fetch(self, kind: Kind, symbol: str, day: Day | None) -> Any | None:
        try:
            value = await self._answer(kind, symbol, day)
        except RestError:
            self._count(kind.name, "failed")
            raise
        self._count(kind.name, "fetched")
        self.put(kind.name, symbol, value, day.day if day is not None else None)
        return value

    def _answer(self, kind: Kind, symbol: str, day: Day | None) -> Awaitable[Any | None]:
        if kind.name == "bars":
            assert day is not None
            checks = self._rejected.at("bars")
            return single.daily_bars(self._rest, symbol, day.sessions, day.splits, checks)
        if kind.name == "free_float":
            assert day is not None
            return self._one_float(symbol, day)
        return self._ask(kind, symbol)

    async def _one_float(self, symbol: str, day: Day) -> float | None:
        checks = self._rejected.at("float")
        return (await single.floats(self._rest, [symbol], day.day, day.splits, checks)).get(symbol)

    async def _ask(self, kind: Kind, symbol: str) -> Any | None:
        path, query = kind.request(symbol)
        if kind.read is None:
            raise RestError(kind.name, "nobody has put it here yet", asked=False)
        checks = self._rejected.at(kind.endpoint)
        try:
            body = await self._rest.get(path, query)
        except RestError as exc:
            if exc.status == 404 and not kind.market_wide:
                return None  # not known there: an answer
            raise
        try:
            answer = msgspec.json.decode(body)
            if not isinstance(answer, dict | list):
                raise ValueError("not an object")
            return kind.read(answer, symbol, checks)
        except (msgspec.DecodeError, ValueError, AttributeError, RecursionError) as exc:
            checks.add("not JSON" if isinstance(exc, msgspec.DecodeError) else "shape")
            raise RestError(path, "the answer cannot be read", status=200) from None

    def _count(self, kind: str, result: str) -> None:
        self.lookups[kind, result] = self.lookups.get((kind, result), 0) + 1


def _value(kind: str, row: ReferenceRow) -> Any | None:
    if kind == "free_float":
        return row.free_float or None
    if kind == "avg_volume":
        return AverageVolume(row.avg_volume, row.avg_volume_days) if row.avg_volume_days else None
    if not row.prev_day_close:
        return None
    return PreviousDay(
        row.prev_day_open,
        row.prev_day_high,
        row.prev_day_low,
        row.prev_day_close,
        row.prev_day_volume,
        row.prev_day_vwap,
    )
