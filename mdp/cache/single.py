"""The reference values of single symbols: for those that the warm-up did not bring."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from mdp.cache import paths
from mdp.cache.rest import RestClient, RestError
from mdp.cache.splits import Splits
from mdp.cache.table import AVERAGE, ReferenceRow
from mdp.cache.validate import Checks
from mdp.sessions import NEW_YORK

#: Symbols of one request.
MAX_SYMBOLS = 50


class _Bar(msgspec.Struct):
    t: Any = None
    o: Any = None
    h: Any = None
    l: Any = None  # noqa: E741 - the wire's name
    c: Any = None
    v: Any = None
    vw: Any = None


class _Float(msgspec.Struct):
    ticker: Any = None
    free_float: Any = None
    effective_date: Any = None


RowT = TypeVar("RowT", _Bar, _Float)


class _List(msgspec.Struct):
    results: list[Any] | None = None


async def daily_bars(
    rest: RestClient, symbol: str, sessions: Sequence[date], splits: Splits | None, checks: Checks
) -> ReferenceRow | None:
    """A symbol's previous day and average volume, from its own daily bars; None where it has none.

    Args:
        rest: The provider.
        symbol: Of the symbol; any text that `is_symbol` takes.
        sessions: Those of the average, newest first.
        splits: Up to the trading day; None: left to the provider.
        checks: Counts what is not used.

    Raises:
        RestError: The answer cannot be had, or cannot be read.
    """
    path = f"{paths.BARS}{quote(symbol, safe='')}/range/1/day/{sessions[-1]}/{sessions[0]}"
    query = {"adjusted": "true" if splits is None else "false", "sort": "asc", "limit": "500"}
    row = ReferenceRow(pending=AVERAGE)
    oldest, total, refused = -1, 0.0, 0
    place = {day: number for number, day in enumerate(sessions)}
    for item in _objects(path, await _get(rest, path, query), checks):
        bar = _convert(item, _Bar, checks)
        number = place.get(_date(bar.t), -1) if bar is not None else -1
        if bar is None or number < 0:
            continue
        ratio = 1 if splits is None else splits.ratio(symbol, sessions[number])
        oldest = max(oldest, number)
        volume = checks.shares(bar.v)
        if volume is None:
            refused += 1
            bar.v = 0
        else:
            total += volume * ratio
        if number == 0 and (values := checks.bar(bar)) is not None:
            row.take_bar(values, ratio)
    if oldest < 0:
        return None
    days = oldest + 1 - refused
    if days > 0:
        row.avg_volume, row.avg_volume_days = total / days, days
    row.answered(AVERAGE)
    return row


async def floats(
    rest: RestClient, symbols: Sequence[str], day: date, splits: Splits | None, checks: Checks
) -> dict[str, float]:
    """Free floats (shares) of at most 50 symbols; those that have none are left out.

    Raises:
        RestError: The answer cannot be had, or cannot be read.
    """
    query = {"ticker.any_of": ",".join(symbols), "limit": "5000"}
    found: dict[str, float] = {}
    for item in _objects(paths.FLOAT, await _get(rest, paths.FLOAT, query), checks):
        row = _convert(item, _Float, checks)
        if row is None or not (symbol := checks.symbol(row.ticker)) or symbol not in symbols:
            continue  # a server that does not know the filter gives everybody's
        if value := checks.shares(row.free_float):
            since = checks.day(row.effective_date) if row.effective_date is not None else None
            since = since if since is not None else day - timedelta(days=1)
            found[symbol] = value * (splits.ratio(symbol, since) if splits is not None else 1)
    return found


async def _get(rest: RestClient, path: str, query: dict[str, str]) -> bytes:
    try:
        return await rest.get(path, query)
    except RestError as exc:
        if exc.status == 404:  # not known there: an answer
            return b"{}"
        raise


def _objects(path: str, body: bytes, checks: Checks) -> list[Any]:
    try:
        return msgspec.json.decode(body, type=_List).results or []
    except (msgspec.DecodeError, ValueError, RecursionError):
        checks.add("not JSON")
        raise RestError(path, "the answer cannot be read", status=200) from None


def _convert(item: Any, row_type: type[RowT], checks: Checks) -> RowT | None:
    try:
        return msgspec.convert(item, row_type)
    except (msgspec.ValidationError, ValueError):
        checks.add("row")
        return None


def _date(ms: Any) -> date:
    """New York date of a daily bar's time; one that is none of our sessions where it has no time."""
    if type(ms) not in (int, float):
        return date.min
    try:
        return datetime.fromtimestamp(ms / 1000, NEW_YORK).date()
    except (ValueError, OverflowError, OSError):
        return date.min
