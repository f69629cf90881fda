"""The REST endpoints that a platform on this feed uses, under the provider's own paths."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, timedelta

import msgspec
from aiohttp import web

from .answers import REQUEST_ID, body_answer, cursor_of, error, json_answer, limit_of, paged
from .calendar import (
    early_closes,
    epoch_ms,
    holidays,
    new_york,
    regular_close,
    session_at,
)
from .conditions import condition_rows
from .corporate import CorporateApi
from .history import DayBar, bar_json, session_end_ms, session_start_ms
from .intraday import LENGTH_MS
from .rest_data import RestData

_CACHED_BODIES = 48  # of past sessions, about 1.3 MB each
_SNAPSHOT_SECONDS = 1.0  # a full snapshot is made at most that often
_MAX_LIMIT = 5_000
_MAX_RANGE_DAYS = 800

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RestApi:
    """Routes and answers. Every answer needs a key: `Authorization: Bearer KEY` or `?apiKey=KEY`."""

    def __init__(self, data: RestData, api_keys: Sequence[str]) -> None:
        self._data = data
        self._corporate = CorporateApi(data, self._bar)
        self._keys = [key.encode() for key in api_keys]
        self.asked: Counter[str] = Counter()  # requests with a good key, by the endpoint's pattern
        self._index: dict[str, int] = {}
        self._sessions: OrderedDict[tuple[date, bool], bytes] = OrderedDict()
        self._snapshot: tuple[float, bytes] = (float("-inf"), b"")
        self._lock = asyncio.Lock()

    def add_routes(self, app: web.Application) -> None:
        """Add all endpoints to an application."""
        stocks = "/v2/snapshot/locale/us/markets/stocks/tickers"
        routes: dict[str, Handler] = {
            "/v1/marketstatus/now": self._market_status,
            "/v1/marketstatus/upcoming": self._upcoming,
            stocks: self._snapshots,
            stocks + "/{ticker}": self._one_snapshot,
            "/v2/aggs/grouped/locale/us/market/stocks/{date}": self._grouped,
            "/v2/aggs/ticker/{ticker}/prev": self._previous,
            "/v2/aggs/ticker/{ticker}/range/{multiplier}/{timespan}/{first}/{last}": self._range,
            "/stocks/vX/float": self._float,
            "/stocks/v1/splits": self._corporate.splits,
            "/stocks/v1/short-interest": self._corporate.short_interest,
            "/stocks/v1/short-volume": self._corporate.short_volume,
            "/v3/reference/conditions": self._conditions,
            "/v3/reference/tickers/{ticker}": self._ticker,
            "/v2/reference/news": self._news,
        }
        for path, handler in routes.items():
            app.router.add_get(path, self._guarded(path, handler))

    def _guarded(self, path: str, handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            given = request.query.get("apiKey", "")
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            if scheme == "Bearer":
                given = token
            key = given.encode()
            known = [hmac.compare_digest(key, one) for one in self._keys]
            if not key or (known and not any(known)):
                return error(401, "Unknown API Key")
            self.asked[path] += 1
            return await handler(request)

        return guarded

    # -- market status ------------------------------------------------------------------------

    async def _market_status(self, request: web.Request) -> web.Response:
        now_ms = self._data.now_ms
        session = session_at(now_ms)
        market = {"regular": "open", "closed": "closed"}.get(session, "extended-hours")
        return json_answer(
            {
                "afterHours": session == "after",
                "currencies": {
                    "crypto": "open",
                    "fx": "open" if new_york(now_ms).weekday() < 5 else "closed",
                },
                "earlyHours": session == "early",
                "exchanges": {"nasdaq": market, "nyse": market, "otc": market},
                "market": market,
                "serverTime": new_york(now_ms).isoformat(timespec="milliseconds"),
            }
        )

    async def _upcoming(self, request: web.Request) -> web.Response:
        today = new_york(self._data.now_ms).date()
        rows: list[dict[str, str]] = []
        for year in (today.year, today.year + 1):
            for day, name in sorted([*holidays(year).items(), *early_closes(year).items()]):
                if not today <= day <= today + timedelta(days=365):
                    continue
                row = {"date": day.isoformat(), "name": name, "status": "closed"}
                if day in early_closes(year):
                    start = datetime.combine(day, datetime.min.time())
                    row |= {
                        "status": "early-close",
                        "open": _utc(epoch_ms(day, start.replace(hour=9, minute=30).time()), ".000Z"),
                        "close": _utc(epoch_ms(day, regular_close(day)), ".000Z"),
                    }
                rows += [{**row, "exchange": exchange} for exchange in ("NYSE", "NASDAQ", "OTC")]
        return json_answer(rows)

    # -- snapshots ----------------------------------------------------------------------------

    async def _snapshots(self, request: web.Request) -> web.Response:
        asked = request.query.get("tickers", "")
        if asked:
            found = [self._data.snapshot(ticker.strip()) for ticker in asked.split(",")[:_MAX_LIMIT]]
            rows = [row for row in found if row]
            return body_answer(f'{{"status":"OK","count":{len(rows)},"tickers":[{",".join(rows)}]}}'.encode())
        made_at, body = self._snapshot
        if time.monotonic() - made_at > _SNAPSHOT_SECONDS:
            async with self._lock:
                body = await self._make_snapshot()
        return body_answer(body)

    async def _make_snapshot(self) -> bytes:
        made_at, body = self._snapshot
        if time.monotonic() - made_at <= _SNAPSHOT_SECONDS:
            return body
        rows: list[str] = []
        for number, ticker in enumerate(self._data.tickers()):
            rows.append(self._data.snapshot(ticker) or "")
            if number % 1_000 == 999:
                await asyncio.sleep(0)  # the market goes on meanwhile
        body = f'{{"status":"OK","count":{len(rows)},"tickers":[{",".join(rows)}]}}'.encode()
        self._snapshot = (time.monotonic(), body)
        return body

    async def _one_snapshot(self, request: web.Request) -> web.Response:
        row = self._data.snapshot(request.match_info["ticker"])
        if row is None:
            return error(404, "Ticker not found.", status="NotFound")
        return body_answer(f'{{"status":"OK","request_id":"{REQUEST_ID}","ticker":{row}}}'.encode())

    # -- bars ---------------------------------------------------------------------------------

    async def _grouped(self, request: web.Request) -> web.Response:
        try:
            day = date.fromisoformat(request.match_info["date"])
        except ValueError:
            return error(400, "Could not parse the date; use YYYY-MM-DD")
        adjusted = _adjusted(request)
        async with self._lock:  # one at a time: a start asks for 30 of them at once
            body = self._sessions.get((day, adjusted))
            if body is None:
                body = await asyncio.to_thread(self._make_grouped, day, adjusted)
        return body_answer(body)

    def _make_grouped(self, day: date, adjusted: bool) -> bytes:
        bars = self._data.session(day)
        at = session_end_ms(day)
        pairs = zip(self._data.tickers(), bars or (), strict=False)
        rows = [
            bar_json(self._corporate.as_traded(ticker, bar, day, adjusted), at, ticker)
            for ticker, bar in pairs
        ]
        results = f'"results":[{",".join(rows)}],' if rows else ""
        body = (
            f'{{"queryCount":{len(rows)},"resultsCount":{len(rows)},"adjusted":{str(adjusted).lower()},'
            f'{results}"status":"OK","request_id":"{REQUEST_ID}","count":{len(rows)}}}'
        ).encode()
        if rows:  # an empty answer may be one for a day that is still to come
            self._sessions[day, adjusted] = body
            if len(self._sessions) > _CACHED_BODIES:
                self._sessions.popitem(last=False)
        return body

    def _bar(self, ticker: str, day: date) -> DayBar | None:
        if not self._index:
            self._index = {one: place for place, one in enumerate(self._data.tickers())}
        place = self._index.get(ticker)
        if place is None:
            return None
        bars = self._data.session(day)
        return bars[place] if bars else None

    async def _previous(self, request: web.Request) -> web.Response:
        ticker = request.match_info["ticker"]
        day = new_york(self._data.now_ms).date()
        rows: list[str] = []
        for back in range(1, 11):
            bar = self._bar(ticker, day - timedelta(days=back))
            if bar:
                rows.append(bar_json(bar, session_end_ms(day - timedelta(days=back)), ticker))
                break
        return _bars_body(ticker, rows)

    async def _range(self, request: web.Request) -> web.Response:
        info = request.match_info
        if info["multiplier"] == "1" and info["timespan"] in LENGTH_MS:
            return await self._intraday(request, LENGTH_MS[info["timespan"]])
        if (info["multiplier"], info["timespan"]) != ("1", "day"):
            return error(400, "this simulator keeps bars of 1 second, 1 minute and 1 day only")
        try:
            first, last = _day(info["first"]), _day(info["last"])
        except (ValueError, OverflowError, OSError):
            return error(400, "Could not parse the time; use YYYY-MM-DD or epoch milliseconds")
        if not 0 <= (last - first).days <= _MAX_RANGE_DAYS:
            return error(400, f"'to' must be at most {_MAX_RANGE_DAYS} days after 'from'")
        limit = limit_of(request, 5_000, 50_000)
        rows: list[str] = []
        for number in range((last - first).days + 1):
            day = first + timedelta(days=number)
            bar = await asyncio.to_thread(self._bar, info["ticker"], day)
            if bar:
                bar = self._corporate.as_traded(info["ticker"], bar, day, _adjusted(request))
                rows.append(bar_json(bar, session_start_ms(day)))
        if request.query.get("sort") == "desc":
            rows.reverse()
        return _bars_body(info["ticker"], rows[:limit])

    async def _intraday(self, request: web.Request, length_ms: int) -> web.Response:
        info = request.match_info
        try:
            first, last = _bound_ms(info["first"]), _bound_ms(info["last"], end=True)
        except (ValueError, OverflowError):
            return error(400, "Could not parse the time; use YYYY-MM-DD or epoch milliseconds")
        bars = await asyncio.to_thread(self._data.intraday, info["ticker"], length_ms, first, last)
        if bars is None:
            return error(400, "this simulated market keeps the bars of its last minutes only")
        if request.query.get("sort") == "desc":
            bars.reverse()
        limit, begin = limit_of(request, 5_000, 50_000), cursor_of(request)
        page = bars[begin : begin + limit]
        following = begin + limit if begin + limit < len(bars) else 0
        return paged(request, [msgspec.to_builtins(bar) for bar in page], following)

    # -- reference ----------------------------------------------------------------------------

    async def _float(self, request: web.Request) -> web.Response:
        rows = self._data.floats()
        asked = request.query.get("ticker") or request.query.get("ticker.any_of", "")
        if asked:
            wanted = set(asked.split(","))
            rows = [row for row in rows if row.ticker in wanted]
        day = new_york(self._data.now_ms).date() - timedelta(days=1)
        limit = limit_of(request, 100, _MAX_LIMIT)
        begin = cursor_of(request)
        results = [
            {
                "effective_date": day.isoformat(),
                "free_float": self._corporate.shares_before(row.ticker, row.free_float, day),
                "free_float_percent": round(row.free_float / row.shares * 100, 2),
                "ticker": row.ticker,
            }
            for row in rows[begin : begin + limit]
        ]
        return paged(request, results, begin + limit if begin + limit < len(rows) else 0)

    async def _conditions(self, request: web.Request) -> web.Response:
        rows = condition_rows()
        if request.query.get("asset_class", "stocks") != "stocks":
            rows = []
        if request.query.get("data_type", "trade") != "trade":
            rows = []
        limit, begin = limit_of(request, 10, 1_000), cursor_of(request)
        return paged(request, rows[begin : begin + limit], begin + limit if begin + limit < len(rows) else 0)

    async def _ticker(self, request: web.Request) -> web.Response:
        one = self._data.details(request.match_info["ticker"])
        if one is None:
            return error(404, "Ticker not found.", status="NOT_FOUND")
        results = {
            "ticker": one.ticker,
            "name": one.name,
            "market": "stocks",
            "locale": "us",
            "primary_exchange": {1: "XNYS", 2: "XASE"}.get(one.tape, "XNAS"),
            "type": "CS",
            "active": True,
            "currency_name": "usd",
            "market_cap": round(one.shares * one.price),
            "share_class_shares_outstanding": one.shares,
            "weighted_shares_outstanding": one.shares,
        }
        return json_answer({"request_id": REQUEST_ID, "results": results, "status": "OK"})

    async def _news(self, request: web.Request) -> web.Response:
        query = request.query
        rows = self._data.news()
        if "ticker" in query:
            rows = [row for row in rows if row.ticker == query["ticker"]]
        try:
            for name, keep in _BOUNDS.items():
                if f"published_utc{name}" in query:
                    bound = _moment_ms(query[f"published_utc{name}"])
                    rows = [row for row in rows if keep(row.published_ms, bound)]
        except ValueError:
            return error(400, "Could not parse published_utc; use YYYY-MM-DD or RFC 3339")
        if query.get("order", "desc") != "asc":
            rows = rows[::-1]
        limit, begin = limit_of(request, 10, 1_000), cursor_of(request)
        results = [
            {
                "id": row.id,
                "publisher": {"name": "Simulated Wire", "homepage_url": "https://example.com/"},
                "title": row.title,
                "author": "Simulator",
                "published_utc": _utc(row.published_ms),
                "article_url": f"https://example.com/news/{row.id}",
                "tickers": [row.ticker],
                "description": row.title,
                "keywords": ["simulated"],
            }
            for row in rows[begin : begin + limit]
        ]
        return paged(request, results, begin + limit if begin + limit < len(rows) else 0)


_BOUNDS: dict[str, Callable[[int, int], bool]] = {
    ".gte": lambda at, bound: at >= bound,
    ".gt": lambda at, bound: at > bound,
    ".lte": lambda at, bound: at <= bound,
    ".lt": lambda at, bound: at < bound,
    "": lambda at, bound: bound <= at < bound + 86_400_000,
}


def _utc(ms: int, end: str = "Z") -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + end


def _moment_ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _bound_ms(text: str, *, end: bool = False) -> int:
    """Epoch milliseconds; of a date its beginning, or its end."""
    if text.isdigit():
        return int(text)
    day = date.fromisoformat(text) + timedelta(days=end)
    return epoch_ms(day, datetime.min.time()) - end


def _day(text: str) -> date:
    return new_york(int(text)).date() if text.isdigit() else date.fromisoformat(text)


def _adjusted(request: web.Request) -> bool:
    return request.query.get("adjusted", "true") != "false"


def _bars_body(ticker: str, rows: list[str]) -> web.Response:
    results = f'"results":[{",".join(rows)}],' if rows else ""
    name = msgspec.json.encode(ticker).decode()  # comes from the address
    return body_answer(
        (
            f'{{"ticker":{name},"queryCount":{len(rows)},"resultsCount":{len(rows)},"adjusted":true,{results}'
            f'"status":"OK","request_id":"{REQUEST_ID}","count":{len(rows)}}}'
        ).encode()
    )
