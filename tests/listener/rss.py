"""Lists of trading halts as an exchange publishes them, and a server that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def item(
    symbol: str = "ACME",
    *,
    day: str = "03/05/2024",
    time: str = "12:00:01",
    code: str = "LUDP",
    resumption: tuple[str, str, str] = ("", "", ""),
    price: str = "",
    market: str = "NYSE",
) -> str:
    """One halt. `resumption`: date, time of quotes, time of trades."""
    fields = {
        "HaltDate": day,
        "HaltTime": time,
        "IssueSymbol": symbol,
        "IssueName": f"{symbol} Inc. &amp; Sons",
        "Market": market,
        "ReasonCode": code,
        "PauseThresholdPrice": price,
        "ResumptionDate": resumption[0],
        "ResumptionQuoteTime": resumption[1],
        "ResumptionTradeTime": resumption[2],
    }
    inner = "".join(f"<ndaq:{name}>{value}</ndaq:{name}>\r\n" for name, value in fields.items())
    table = "<description><![CDATA[<table><tr><td>01/01/1999</td></tr></table>]]></description>"
    return f"<item><title>{symbol}</title>\r\n{inner}{table}</item>\r\n"


def document(*items: str) -> bytes:
    """A whole list."""
    return (
        '<?xml version="1.0" encoding="utf-8"?>\r\n'
        '<rss version="2.0" xmlns:ndaq="http://www.nasdaqtrader.com/">\r\n<channel><title>Halts</title>'
        f"<ttl>1</ttl><ndaq:numItems>{len(items)}</ndaq:numItems>{''.join(items)}</channel></rss>"
    ).encode()


class RssServer:
    """Answers as its `handler` says; notes the headers of each question."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.handler: Handler = self.good()
        self.port = 0
        #: Set at the end of a test, for handlers that would wait for ever.
        self.over = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/rss.aspx?feed=tradehalts"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append({"path": request.path_qs, **request.headers})
        return await self.handler(request)

    @staticmethod
    def good(body: bytes | None = None, status: int = 200, **headers: str) -> Handler:
        """The same answer to each question."""

        async def handler(_request: web.Request) -> web.StreamResponse:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return web.Response(body=document(item()) if body is None else body, status=status, headers=names)

        return handler


@asynccontextmanager
async def serving() -> AsyncIterator[RssServer]:
    """A server on a free port of loopback."""
    server = RssServer()
    app = web.Application()
    app.router.add_get("/{anything:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        server.over.set()
        await runner.cleanup()
