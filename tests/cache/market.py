"""A provider of reference values with few symbols, for the tests of what is fetched in bulk."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any

from aiohttp import web

from mdp.cache import paths
from tests.cache.provider import Answer, Provider

TODAY = date(2026, 9, 23)  # a Wednesday
KEY = "secret-key-123"


def bar(close: float, volume: float = 1000) -> dict[str, Any]:
    """A day's bar as on the wire."""
    return {"o": close - 1, "h": close + 2, "l": close - 2, "c": close, "v": volume, "vw": close + 0.5}


def snapshot(closes: Mapping[str, Any]) -> bytes:
    """A full snapshot: symbol -> previous close, or its whole `prevDay`."""
    tickers = [
        {"ticker": symbol, "day": bar(0), "prevDay": bar(value) if isinstance(value, int | float) else value}
        for symbol, value in closes.items()
    ]
    return json.dumps({"status": "OK", "count": len(tickers), "tickers": tickers}).encode()


def session(volumes: Mapping[str, Any], close: float = 50) -> bytes:
    """Grouped daily bars: symbol -> volume, or its whole bar; no list at all where nothing traded."""
    results = [
        {"T": symbol, **(value if isinstance(value, dict) else bar(close) | {"v": value})}
        for symbol, value in volumes.items()
    ]
    body: dict[str, Any] = {"status": "OK", "adjusted": False, "resultsCount": len(results)}
    return json.dumps(body | ({"results": results} if results else {})).encode()


def floats(values: Mapping[str, Any], next_url: str = "", effective: str = "") -> bytes:
    """A page of floats."""
    extra = {"effective_date": effective} if effective else {}
    results = [{"ticker": symbol, "free_float": value} | extra for symbol, value in values.items()]
    link = {"next_url": next_url} if next_url else {}
    return json.dumps({"status": "OK", "results": results} | link).encode()


def splits(*rows: tuple[str, str, float, float]) -> bytes:
    """Splits: symbol, execution date, from, to."""
    names = ("ticker", "execution_date", "split_from", "split_to")
    results = [dict(zip(names, row, strict=True)) for row in rows]
    return json.dumps({"status": "OK", "results": results}).encode()


class Market(Provider):
    """A provider with two symbols, years of history and one closing that no calendar knows."""

    closing = TODAY - timedelta(days=1)

    def __init__(self) -> None:
        super().__init__()
        self.volumes: Callable[[date], Mapping[str, Any]] = lambda _day: {"AAPL": 300, "MSFT": 100}
        self.answers[paths.SNAPSHOT] = snapshot({"AAPL": 50, "MSFT": 50})
        self.answers[paths.GROUPED] = self.grouped
        self.answers[paths.FLOAT] = floats({"AAPL": 15_000_000_000, "MSFT": 7_400_000_000})
        self.answers[paths.SPLITS] = splits()

    async def grouped(self, request: web.Request) -> Answer:
        """A day's bars."""
        day = date.fromisoformat(request.path.rpartition("/")[2])
        return session({} if day == self.closing else self.volumes(day))
