"""Splits, short interest and short volume, and what splits do to bars and floats."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date

from aiohttp import web

from .answers import cursor_of, error, limit_of, paged
from .calendar import new_york, sessions_before, settlement_days
from .history import DayBar, before_split
from .rest_data import RestData

MAX_LIMIT = 5_000


class CorporateApi:
    """Handlers, and the way back from adjusted values to those of their day.

    Args:
        data: What there is.
        bar: One ticker's bar of a session.
    """

    def __init__(self, data: RestData, bar: Callable[[str, date], DayBar | None]) -> None:
        self._data, self._bar = data, bar

    def as_traded(self, ticker: str, bar: DayBar, day: date, adjusted: bool) -> DayBar:
        """A bar of the history, which is adjusted for all splits, as it was on its day."""
        if adjusted:
            return bar
        for split in self._data.splits():
            if split.ticker == ticker and split.execution_date > day:
                bar = before_split(bar, split)
        return bar

    def shares_before(self, ticker: str, shares: int, day: date) -> int:
        """Shares of today as they were counted at the end of a day."""
        for split in self._data.splits():
            if split.ticker == ticker and split.execution_date > day:
                shares = shares * split.split_from // split.split_to
        return shares

    async def splits(self, request: web.Request) -> web.Response:
        """By `ticker`, `ticker.any_of`, `execution_date.gte` and `.lte`; newest first."""
        query = request.query
        rows = self._data.splits()
        asked = query.get("ticker") or query.get("ticker.any_of", "")
        if asked:
            rows = [row for row in rows if row.ticker in asked.split(",")]
        try:
            if "execution_date.gte" in query:
                first = date.fromisoformat(query["execution_date.gte"])
                rows = [row for row in rows if row.execution_date >= first]
            if "execution_date.lte" in query:
                last = date.fromisoformat(query["execution_date.lte"])
                rows = [row for row in rows if row.execution_date <= last]
        except ValueError:
            return error(400, "Could not parse execution_date; use YYYY-MM-DD")
        rows = sorted(rows, key=lambda row: row.execution_date, reverse=True)
        results = [
            {
                "id": f"sim-{row.ticker}-{row.execution_date}",
                "ticker": row.ticker,
                "execution_date": row.execution_date.isoformat(),
                "split_from": row.split_from,
                "split_to": row.split_to,
                "adjustment_type": "reverse_split" if row.split_from > row.split_to else "forward_split",
            }
            for row in rows
        ]
        limit, begin = limit_of(request, 100, MAX_LIMIT), cursor_of(request)
        page = results[begin : begin + limit]
        return paged(request, page, begin + limit if begin + limit < len(results) else 0)

    async def short_interest(self, request: web.Request) -> web.Response:
        """Made up from the float: the same for each date, whenever asked; half-monthly."""
        one = self._data.details(request.query.get("ticker", ""))
        today = new_york(self._data.now_ms).date()
        rows = []
        if one is not None:
            for place, day in enumerate(settlement_days(today, 24)):
                short = one.shares * (3 + (place * 7) % 5) // 100
                average = max(1, one.shares // 200)
                rows.append(
                    {
                        "ticker": one.ticker,
                        "settlement_date": day.isoformat(),
                        "short_interest": short,
                        "avg_daily_volume": average,
                        "days_to_cover": round(short / average, 2),
                    }
                )
        return paged(request, rows[: limit_of(request, 10, MAX_LIMIT)], 0)

    async def short_volume(self, request: web.Request) -> web.Response:
        """A share of each session's volume."""
        ticker = request.query.get("ticker", "")
        rows = []
        day = new_york(self._data.now_ms).date()
        for session in sessions_before(day, limit_of(request, 10, 60)):
            bar = await asyncio.to_thread(self._bar, ticker, session)
            if bar:
                total = int(bar.volume * 0.45)
                short = total * (40 + session.day % 20) // 100
                rows.append(
                    {
                        "ticker": ticker,
                        "date": session.isoformat(),
                        "total_volume": total,
                        "short_volume": short,
                        "short_volume_ratio": round(short / total * 100, 2) if total else 0,
                    }
                )
        return paged(request, rows, 0)
