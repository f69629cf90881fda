"""The few REST answers that a starting platform asks the feeder for; or trouble, to see what it costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal, get_args
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from mdp.bench.frames import Listing

#: What the server does: its best, or the same trouble to every request.
Manner = Literal["well", "429", "500", "garbage", "silent", "slow"]
MANNERS: tuple[str, ...] = get_args(Manner)

_SLOW_SECONDS = 5.0
_SILENT_SECONDS = 3_600.0  # longer than anybody waits

_NEW_YORK = ZoneInfo("America/New_York")
_AVERAGE_FACTOR = 0.8  # of the previous day's volume


def application(
    listings: Sequence[Listing], market_ms: Callable[[], float], manner: Manner = "well"
) -> web.Application:
    """The endpoints; anything else is answered 404.

    Args:
        listings: Reference values by symbol.
        market_ms: Market time, epoch ms: the market is always open and its clock is the frames'.
        manner: How it answers.
    """
    answers = Answers(listings, market_ms)
    app = web.Application(middlewares=[_trouble(manner)])
    app.router.add_get("/v1/marketstatus/now", answers.status)
    app.router.add_get("/v1/marketstatus/upcoming", answers.upcoming)
    app.router.add_get("/v2/snapshot/locale/us/markets/stocks/tickers", answers.snapshot)
    app.router.add_get("/v2/aggs/grouped/locale/us/market/stocks/{date}", answers.grouped)
    app.router.add_get("/stocks/vX/float", answers.free_float)
    app.router.add_get("/stocks/financials/v1/ratios", answers.ratios)
    app.router.add_route("*", "/{anything:.*}", answers.missing)
    return app


class Answers:
    """The handlers of `application`.

    Answers of the whole market are made before anything is measured: one takes 20 ms, and the frames that
    leave the same process are to leave on time.
    """

    def __init__(self, listings: Sequence[Listing], market_ms: Callable[[], float]) -> None:
        self._market_ms = market_ms
        self._floats = {x.symbol: x.free_float for x in listings}
        self._snapshot = _encoded(_snapshot(listings))
        self._grouped = _encoded(_grouped(listings))
        self._all_floats = _encoded(_float_page(self._floats))
        self._ratios = _encoded(_ratios(listings))

    async def status(self, _: web.Request) -> web.Response:
        """The market is open."""
        now = datetime.fromtimestamp(self._market_ms() / 1000, _NEW_YORK).isoformat(timespec="seconds")
        exchanges = {"nasdaq": "open", "nyse": "open", "otc": "open"}
        return _json(
            {
                "market": "open",
                "earlyHours": False,
                "afterHours": False,
                "serverTime": now,
                "exchanges": exchanges,
                "currencies": {"crypto": "open", "fx": "open"},
            }
        )

    async def upcoming(self, _: web.Request) -> web.Response:
        """No holidays."""
        return _json([])

    async def snapshot(self, _: web.Request) -> web.Response:
        """Yesterday's bar of every symbol; today's is still empty."""
        return _response(self._snapshot)

    async def grouped(self, _: web.Request) -> web.Response:
        """One day of the whole market. Every day looks the same."""
        return _response(self._grouped)

    async def free_float(self, request: web.Request) -> web.Response:
        """Floats of the symbols, on one page."""
        asked = request.query.get("ticker")
        if asked is None:
            return _response(self._all_floats)
        return _json(_float_page({asked: self._floats[asked]} if asked in self._floats else {}))

    async def ratios(self, _: web.Request) -> web.Response:
        """Average volumes, on one page."""
        return _response(self._ratios)

    async def missing(self, _: web.Request) -> web.Response:
        """Whatever else there is at the provider's."""
        return _json({"status": "NOT_FOUND", "message": "the bench's feeder has no such endpoint"}, 404)


def _trouble(manner: Manner) -> Middleware:
    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        if manner in ("429", "500"):
            return _json({"status": "ERROR", "error": "the bench makes trouble"}, int(manner))
        if manner == "garbage":
            return web.Response(
                body=b'{"status":"OK","results":[\x00\xff' * 1_000, content_type="application/json"
            )
        if manner != "well":
            await asyncio.sleep(_SLOW_SECONDS if manner == "slow" else _SILENT_SECONDS)
        return await handler(request)

    return answer


def _snapshot(listings: Sequence[Listing]) -> object:
    empty = {"o": 0, "h": 0, "l": 0, "c": 0, "v": 0, "vw": 0}
    tickers = [
        {"ticker": x.symbol, "prevDay": _bar(x, 1.0), "day": empty, "min": {"av": 0, **empty}, "updated": 0}
        for x in listings
    ]
    return {"status": "OK", "count": len(tickers), "tickers": tickers}


def _grouped(listings: Sequence[Listing]) -> object:
    rows = [{"T": x.symbol, **_bar(x, _AVERAGE_FACTOR)} for x in listings]
    return {
        "status": "OK",
        "adjusted": True,
        "queryCount": len(rows),
        "resultsCount": len(rows),
        "results": rows,
    }


def _float_page(floats: Mapping[str, int]) -> object:
    rows = [
        {"ticker": symbol, "free_float": free_float, "effective_date": "2026-01-02"}
        for symbol, free_float in floats.items()
    ]
    return {"status": "OK", "results": rows}


def _ratios(listings: Sequence[Listing]) -> object:
    rows = [
        {"ticker": x.symbol, "average_volume": int(x.previous_volume * _AVERAGE_FACTOR)} for x in listings
    ]
    return {"status": "OK", "results": rows}


def _bar(listing: Listing, share: float) -> dict[str, float]:
    close = listing.previous_close
    return {
        "o": round(close * 0.99, 2),
        "h": round(close * 1.02, 2),
        "l": round(close * 0.98, 2),
        "c": close,
        "v": int(listing.previous_volume * share),
        "vw": close,
    }


def _json(body: object, status: int = 200) -> web.Response:
    return _response(_encoded(body), status)


def _encoded(body: object) -> bytes:
    return msgspec.json.encode(body)


def _response(body: bytes, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")
