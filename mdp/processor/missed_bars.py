"""Bars of today that were missed, as the provider's REST endpoints tell them: asked for, and checked.

Nothing that an answer says is believed unseen: a bar whose time, prices or volume cannot be are counted by
reason and left out, and whoever asked is told that there were such.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import msgspec

from mdp.analyzers.state import SymbolState
from mdp.cache import paths
from mdp.cache.bulk import BodyError, TodayRow, rows
from mdp.cache.rest import RestClient, RestError
from mdp.cache.validate import Checks
from mdp.events import Aggregate, MinuteAggregate
from mdp.observability.loop_lag import StepTimer
from mdp.sessions import TradingDay

SECOND, MINUTE = "second", "minute"
LENGTH_MS = {SECOND: 1_000, MINUTE: 60_000}
_KINDS: dict[str, type[Aggregate]] = {SECOND: Aggregate, MINUTE: MinuteAggregate}

#: A whole trading day has 960 minutes, and seconds are asked for ten minutes and a little at most.
MAX_ROWS = 2_000
#: Of one page: such an answer is decoded in some milliseconds.
MAX_PAGE_BYTES = 512 * 1024
MAX_PAGES = 4
STEP_ROWS = 250  # between two turns of the event loop: about a millisecond
#: A price is not further from the last one known than this factor: none moves so within a day.
LARGEST_MOVE = 20.0


class _Answer(msgspec.Struct):
    status: Any = None
    results: list[Any] | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class Found(msgspec.Struct):
    """What the provider has of a symbol in a stretch of time."""

    bars: list[Aggregate]
    refused: int  # rows that cannot be used


async def fetch(
    rest: RestClient,
    symbol: str,
    timespan: str,
    since_ms: int,
    until_ms: int,
    *,
    near: float,
    checks: Checks,
) -> Found:
    """A symbol's bars, in order of time.

    As traded, not adjusted: those of the stream are not adjusted either, and splits take effect before a
    trading day begins.

    Args:
        rest: The provider.
        symbol: Whose.
        timespan: SECOND or MINUTE.
        since_ms: Start of the first bar at the earliest; a whole second or minute.
        until_ms: Bars that start here or later are left out.
        near: A price of today or of the day before, USD; 0 where none is known.
        checks: Counts what is not used.

    Raises:
        RestError: The answer cannot be had, or cannot be read.
    """
    path = f"{paths.BARS}{quote(symbol, safe='')}/range/1/{timespan}/{since_ms}/{until_ms - 1}"
    found: dict[int, Aggregate] = {}
    refused = pages = 0
    async for body in rest.pages(path, {"adjusted": "false", "sort": "asc", "limit": "50000"}):
        pages += 1
        items = _items(path, body, checks)
        if pages > MAX_PAGES or len(items) + len(found) > MAX_ROWS:
            checks.add("too many rows")
            raise RestError(path, "more rows than the time asked for has", status=200)
        for place, item in enumerate(items):
            if place % STEP_ROWS == STEP_ROWS - 1:
                await asyncio.sleep(0)
            bar = read(item, symbol, timespan, since_ms, until_ms, near=near, checks=checks)
            if bar is None:
                refused += 1
            else:
                found[int(bar.start_timestamp)] = bar
    return Found([found[start] for start in sorted(found)], refused)


def _items(path: str, body: bytes, checks: Checks) -> list[Any]:
    if len(body) > MAX_PAGE_BYTES:
        checks.add("too large")
        raise RestError(path, f"a page of more than {MAX_PAGE_BYTES} bytes", status=200)
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        checks.add("not JSON")
        raise RestError(path, "the answer cannot be read", status=200) from None
    if isinstance(answer.status, str) and answer.status.upper() in ("ERROR", "NOT_AUTHORIZED"):
        checks.add("status")
        raise RestError(path, f"the answer's status is {answer.status.upper()}", status=200)
    return answer.results or []


def read(
    item: Any,
    symbol: str,
    timespan: str,
    since_ms: int,
    until_ms: int,
    *,
    near: float,
    checks: Checks,
) -> Aggregate | None:
    """One row as a bar; None, counted, where it cannot be used. Arguments as of `fetch`."""
    if type(item) is not dict:
        checks.add("row")
        return None
    start, length = item.get("t"), LENGTH_MS[timespan]
    if type(start) is not int and not (type(start) is float and start.is_integer()):
        checks.add("missing" if start is None else "not a time")
        return None
    if not since_ms <= start < until_ms or start % length:
        checks.add("outside")
        return None
    high, low, close = (checks.price(item.get(name)) for name in ("h", "l", "c"))
    if not (high and low and close):
        return None
    opened = checks.price(item["o"]) if item.get("o") is not None else close
    if not low <= close <= high or not low <= opened <= high:
        checks.add("high below low" if high < low else "outside of its range")
        return None
    if near and not (near / LARGEST_MOVE <= low and high <= near * LARGEST_MOVE):
        checks.add("far from the last price")
        return None
    volume = checks.shares(item.get("v"))
    if volume is None:
        return None
    vwap = item.get("vw")
    trades = item.get("n")
    average = round(volume / trades) if isinstance(trades, int) and 0 < trades <= volume else None
    return _KINDS[timespan](
        symbol=symbol,
        open=opened,
        high=high,
        low=low,
        close=close,
        volume=volume,
        # Rounded by the provider: it may lie a hair outside of the range.
        vwap=checks.price(vwap) if vwap is not None else None,
        average_size=average,
        start_timestamp=int(start),
        end_timestamp=int(start) + length,
    )


def complete(bars: list[Aggregate], state: SymbolState | None, volume: float | None) -> None:
    """Give bars that follow a symbol's newest one the day's volume and VWAP, as the stream's have them.

    Args:
        bars: In order of time.
        state: The symbol's; None for one that was not seen yet.
        volume: The day's, as the provider counts it, where `state` shows it already; None: the bars'
            volumes are to be added.
    """
    newest = None if state is None else state.bar
    counted = 0 if state is None else state.accumulated_volume
    vwap = None if newest is None else newest.aggregate_vwap
    end = 0 if newest is None else newest.end_timestamp or newest.start_timestamp + 1
    fresh = [bar for bar in bars if bar.start_timestamp >= end]
    missed = sum(bar.volume or 0 for bar in fresh)
    base = counted if volume is None else max(0, counted - missed)
    turnover = (vwap or 0) * base
    for bar in fresh:
        added = bar.volume or 0
        if (vwap or not base) and bar.vwap and base + added:
            turnover += bar.vwap * added
            vwap = float(turnover / (base + added))
        base += added
        bar.aggregate_vwap = vwap
        bar.accumulated_volume = base if volume is None else max(counted, min(base, volume))
    if fresh and volume is not None:
        fresh[-1].accumulated_volume = max(counted, volume)


async def volumes(
    rest: RestClient, day: TradingDay, checks: Checks, step: StepTimer, *, include_otc: bool
) -> dict[str, float]:
    """Today's volumes (shares) of all symbols that have traded, from one snapshot of the whole market.

    `min.av` counts the day up to its minute; `day.v` is 0 before the first regular trade and counts the
    pre-market from then on (market.md A4): the larger is the newer. Either counts only where its time is
    of this trading day: before 04:00 it may still be the last one's.

    Raises:
        RestError, BodyError: The answer cannot be had, or cannot be read.
    """
    body = await rest.get(paths.SNAPSHOT, {"include_otc": "true"} if include_otc else None)
    found: dict[str, float] = {}
    async for part in rows(body, "tickers", TodayRow, checks, step):
        for item in part:
            symbol = checks.symbol(item.ticker)
            if not symbol:
                continue
            best = 0.0
            minute, today = item.min, item.day
            if minute is not None and _within(minute.t, 1, day):
                best = checks.shares(minute.av) or 0
            if today is not None and _within(item.updated, 1_000_000, day):
                best = max(best, checks.shares(today.v) or 0)
            if best:
                found[symbol] = best
    return found


def _within(value: Any, scale: int, day: TradingDay) -> bool:
    return type(value) in (int, float) and day.start_ms <= value / scale < day.idle_ms


__all__ = ["MINUTE", "SECOND", "BodyError", "Found", "complete", "fetch", "read", "volumes"]
