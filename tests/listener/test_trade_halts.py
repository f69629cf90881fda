"""Polling an exchange's list of halts, against a real server that does what servers do."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from mdp.config import HaltsConfig
from mdp.events import HaltNotice
from mdp.listener import trade_halts
from mdp.listener.trade_halts import HaltSource, TradeHalts
from mdp.plugins import load

from .rss import RssServer, document, item, serving

NOW = 1_709_658_000_000.0
PATIENCE_SECONDS = 60.0


class Sleeper:
    """Stands in for waiting: notes how long, and lets the stage go on when the test says so."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self._go = asyncio.Semaphore(0)
        self._waiting = asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        self._waiting.release()
        await self._go.acquire()

    async def polled(self) -> None:
        """Wait until a question is done with."""
        await asyncio.wait_for(self._waiting.acquire(), PATIENCE_SECONDS)

    async def again(self) -> None:
        """Let it ask once more, and wait until that is done with."""
        self._go.release()
        await self.polled()


class Bench:
    """A stage that asks the server, and what it handed over."""

    def __init__(self, server: RssServer, *, request_seconds: float = 5.0, url: str = "") -> None:
        self.server = server
        self.sleep = Sleeper()
        self.now = NOW
        self.got: list[list[HaltNotice]] = []
        self.halts = TradeHalts(
            HaltsConfig(rss_url=url or server.url, poll_seconds=60),
            self.got.append,
            lambda: self.now,
            sleep=self.sleep,
            rng=random.Random(1),
            request_seconds=request_seconds,
        )

    def symbols(self) -> list[list[str]]:
        return [[notice.symbol for notice in notices] for notices in self.got]


@asynccontextmanager
async def polling(*, request_seconds: float = 5.0) -> AsyncIterator[Bench]:
    """A started stage whose first question is answered."""
    async with serving() as server:
        bench = Bench(server, request_seconds=request_seconds)
        await bench.halts.start()
        try:
            await bench.sleep.polled()
            yield bench
        finally:
            await bench.halts.stop()


async def test_what_is_listed_is_handed_over_at_once_and_with_every_poll() -> None:
    """Older halts first, with the market time at which we learned of them."""
    async with polling() as bench:
        assert bench.symbols() == [["ACME"]]
        assert bench.got[0][0].timestamp == NOW
        assert bench.server.asked[0]["path"] == "/rss.aspx?feed=tradehalts"
        bench.server.handler = RssServer.good(document(item("NEW", time="12:10:00"), item("OLD")))
        bench.now += 60_000
        await bench.sleep.again()
        assert bench.symbols() == [["ACME"], ["OLD", "NEW"]]
        assert {notice.timestamp for notice in bench.got[1]} == {NOW + 60_000}
        assert bench.halts.polls == {"changed": 2}
        assert bench.halts.health().ok
        assert bench.halts.health().detail == "2 halts listed"
        assert all(60 <= wait <= 66 for wait in bench.sleep.waits)


async def test_what_did_not_change_is_not_sent_again() -> None:
    """The server is asked whether it did. What is known is handed over all the same: it still stands."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.headers.get("If-None-Match") == '"v1"':
            return web.Response(status=304)
        headers = {"ETag": '"v1"', "Last-Modified": "Tue, 05 Mar 2024 17:00:00 GMT"}
        return web.Response(body=document(item()), headers=headers)

    async with polling() as bench:
        assert "If-None-Match" not in bench.server.asked[0]
        bench.server.handler = handler
        await bench.sleep.again()
        bench.now += 60_000
        await bench.sleep.again()
        assert bench.server.asked[2]["If-Modified-Since"] == "Tue, 05 Mar 2024 17:00:00 GMT"
        assert bench.halts.polls == {"changed": 2, "unchanged": 1}
        assert bench.symbols() == [["ACME"]] * 3
        assert bench.got[2][0].timestamp == NOW + 60_000


async def test_not_changed_from_nothing_is_an_error() -> None:
    """A server that says so at the first question tells nothing."""
    async with serving() as server:
        server.handler = RssServer.good(b"", 304)
        bench = Bench(server)
        await bench.halts.start()
        await bench.sleep.polled()
        assert bench.halts.polls == {"http_error": 1}
        assert bench.halts.last_error == "HTTP status 304"
        await bench.halts.stop()


@pytest.mark.parametrize(
    ("body", "status", "headers", "outcome", "error"),
    [
        (b"", 500, {}, "http_error", "HTTP status 500"),
        (b"", 404, {}, "http_error", "HTTP status 404"),
        (b"slow down", 429, {"Retry_After": "1"}, "http_error", "HTTP status 429"),
        (b"<html>maintenance</html>", 200, {}, "malformed", "no RSS"),
        (b"", 200, {}, "malformed", "no XML"),
        (b"\x00\xff\xfe", 200, {}, "malformed", "no XML"),
        (document(item())[:-9], 200, {}, "malformed", "no XML"),
        (b'<!DOCTYPE r [<!ENTITY a "b">]><rss>&a;</rss>', 200, {}, "malformed", "document type"),
        (document(item("")), 200, {}, "malformed", "none of 1 items"),
        (b"x" * 3_000_000, 200, {}, "malformed", "no XML"),
    ],
)
async def test_a_bad_answer_is_counted_and_the_next_one_is_waited_for_longer(
    body: bytes, status: int, headers: dict[str, str], outcome: str, error: str
) -> None:
    """Nothing is handed over, waits double up to a quarter of an hour, a good answer sets all right."""
    async with polling() as bench:
        bench.server.handler = RssServer.good(body, status, **headers)
        for _ in range(6):
            await bench.sleep.again()
        assert bench.halts.polls == {"changed": 1, outcome: 6}
        assert error in bench.halts.last_error
        assert bench.halts.health().ok, "halts of the tape come all the same"
        assert error in bench.halts.health().detail
        assert len(bench.got) == 1
        for wait, least in zip(bench.sleep.waits, (60, 120, 240, 480, 900, 900, 900), strict=True):
            assert least <= wait <= 1.1 * least
        bench.server.handler = RssServer.good()
        await bench.sleep.again()
        assert bench.halts.last_error == ""
        assert 60 <= bench.sleep.waits[-1] <= 66
        assert len(bench.got) == 2


async def test_a_poll_after_a_bad_answer_asks_with_what_was_good() -> None:
    """A broken answer's own tags are not taken for those of what we know."""
    async with polling() as bench:
        bench.server.handler = RssServer.good(ETag='"good"')
        await bench.sleep.again()
        bench.server.handler = RssServer.good(b"<rss>", ETag='"bad"')
        await bench.sleep.again()
        await bench.sleep.again()
        assert bench.server.asked[-1]["If-None-Match"] == '"good"'


async def test_an_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is not believed but counted; nothing of it is kept."""
    monkeypatch.setattr(trade_halts, "MAX_BODY_BYTES", 300_000)
    piece = item().encode() * 20

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'<rss xmlns:ndaq="urn:x"><channel>')
        while not bench.server.over.is_set():
            await response.write(piece)
        return response

    async with polling() as bench:
        bench.server.handler = handler
        await bench.sleep.again()
        assert bench.halts.polls == {"changed": 1, "too_large": 1}
        assert len(bench.got) == 1


async def test_a_packed_answer_is_not_unpacked() -> None:
    """A few bytes could be gigabytes: we ask for it plain, and take it for garbage where it is not."""
    async with polling() as bench:
        assert bench.server.asked[0]["Accept-Encoding"] == "identity"
        bench.server.handler = RssServer.good(b"\x1f\x8b\x08\x00rest", Content_Encoding="gzip")
        await bench.sleep.again()
        assert bench.halts.polls == {"changed": 1, "malformed": 1}


@pytest.mark.parametrize("begins", [False, True])
async def test_an_answer_that_does_not_come_or_does_not_end_is_given_up(*, begins: bool) -> None:
    """The bound is for the whole of it."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if begins:
            await response.prepare(request)
            await response.write(document()[:90])
        await bench.server.over.wait()
        return response

    async with polling(request_seconds=0.3) as bench:
        bench.server.handler = handler
        await bench.sleep.again()
        assert bench.halts.polls == {"changed": 1, "timeout": 1}
        assert bench.halts.last_error == "no whole answer in 0.3 s"


async def test_a_redirect_is_followed_and_a_circle_is_left() -> None:
    """Lists move; three times is enough."""

    async def moved(request: web.Request) -> web.StreamResponse:
        if request.path != "/new":
            raise web.HTTPMovedPermanently("/new")
        return web.Response(body=document(item("MOVED")))

    async def circle(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/rss.aspx")

    async with polling() as bench:
        bench.server.handler = moved
        await bench.sleep.again()
        assert bench.symbols()[-1] == ["MOVED"]
        asked = len(bench.server.asked)
        bench.server.handler = circle
        await bench.sleep.again()
        assert bench.halts.polls == {"changed": 2, "network": 1}
        assert len(bench.server.asked) - asked <= 4


async def test_nobody_there_is_an_error_like_others() -> None:
    """Connection refused: counted, waited, asked again."""
    async with serving() as server:
        url = server.url
    bench = Bench(server, url=url)
    await bench.halts.start()
    await bench.sleep.polled()
    await bench.sleep.again()
    assert bench.halts.polls == {"network": 2}
    assert bench.sleep.waits[1] > bench.sleep.waits[0] > 60
    await bench.halts.stop()


async def test_without_a_market_time_nothing_is_handed_over() -> None:
    """It could not be placed; the next poll finds it again."""
    async with polling() as bench:
        bench.now = 0
        await bench.sleep.again()
        assert len(bench.got) == 1
        bench.now = NOW + 1
        await bench.sleep.again()
        assert [notices[0].timestamp for notices in bench.got] == [NOW, NOW + 1]


async def test_items_that_cannot_be_read_are_counted() -> None:
    """And cost the others nothing."""
    async with polling() as bench:
        bench.server.handler = RssServer.good(document(item("NO$"), item("YES")))
        await bench.sleep.again()
        assert bench.symbols()[-1] == ["YES"]
        assert bench.halts.malformed == 1


async def test_it_stops_in_the_middle_of_a_question_and_twice() -> None:
    """And before it began."""

    async def handler(_request: web.Request) -> web.StreamResponse:
        asked.set()
        await bench.server.over.wait()
        return web.Response()

    asked = asyncio.Event()
    async with polling() as bench:
        bench.server.handler = handler
        asking = asyncio.create_task(bench.sleep.again())
        await asyncio.wait_for(asked.wait(), PATIENCE_SECONDS)
        await bench.halts.stop()
        await bench.halts.stop()
        asking.cancel()
        assert bench.halts.polls == {"changed": 1}
        await Bench(bench.server).halts.stop()


async def test_a_redirect_to_plain_http_is_refused() -> None:
    """Who asked over TLS is not answered by whoever sits in between."""

    class Response:
        status = 200
        url = type("Url", (), {"scheme": "http"})()

        async def __aenter__(self) -> Response:
            return self

        async def __aexit__(self, *_exc: object) -> None:
            pass

    class Session:
        def get(self, _url: str, **_settings: object) -> Response:
            return Response()

    halts = TradeHalts(HaltsConfig(rss_url="https://halts.example/rss"), lambda _: None, lambda: NOW)
    await halts._poll(Session())  # type: ignore[arg-type]
    assert halts.last_error == "a redirect away from https"


def test_it_is_found_by_its_name() -> None:
    """And so is one of the user's own."""
    assert load("mdp.halt_sources", "nasdaq_rss", HaltSource) is TradeHalts
    assert load("mdp.halt_sources", "mdp.listener.trade_halts:TradeHalts", HaltSource) is TradeHalts
