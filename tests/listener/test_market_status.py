"""What is known of the market, from a scripted REST server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import date, timedelta
from typing import Any

import pytest
import structlog
from aiohttp import web

from mdp.exchange_calendar import US_STOCKS, ExchangeCalendar
from mdp.listener.market_status import MAX_BODY_BYTES, MarketStatusSource, parse
from mdp.listener.watchdog import Market
from mdp.simulator import Simulator, SimulatorOptions

from .fake_provider import KEY, until

SECOND = 1_000_000_000


def answer(market: str = "open", server_time: str = "2026-03-10T09:25:00-04:00", **more: Any) -> str:
    """The body of an answer."""
    body = {"market": market, "serverTime": server_time, "earlyHours": False, "afterHours": False, **more}
    return json.dumps(body)


class RestServer:
    """Answers with what the test put in; the last answer is repeated."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str]] = [(200, answer())]
        self.headers: list[str | None] = []
        self.url = ""
        self.hang = False
        self.upcoming: list[tuple[int, str]] = [(200, "[]")]
        self.upcoming_headers: list[str | None] = []

    def put(self, *bodies: str, status: int = 200) -> None:
        self.answers = [(status, body) for body in bodies]

    async def handle(self, request: web.Request) -> web.Response:
        self.headers.append(request.headers.get("Authorization"))
        if self.hang:
            await asyncio.sleep(60)
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        headers = {"Location": "/elsewhere"} if status == 302 else None
        return web.Response(status=status, text=body, headers=headers)

    async def holidays(self, request: web.Request) -> web.Response:
        self.upcoming_headers.append(request.headers.get("Authorization"))
        status, body = self.upcoming.pop(0) if len(self.upcoming) > 1 else self.upcoming[0]
        headers = {"Location": "/elsewhere"} if status == 302 else None
        return web.Response(status=status, text=body, headers=headers)


@pytest.fixture
async def rest() -> AsyncIterator[RestServer]:
    """A server on a free port."""
    server = RestServer()
    app = web.Application()
    app.router.add_get("/v1/marketstatus/now", server.handle)
    app.router.add_get("/v1/marketstatus/upcoming", server.holidays)
    app.router.add_get("/elsewhere", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


class Clock:
    """Monotonic nanoseconds that a test moves."""

    def __init__(self) -> None:
        self.ns = 1_000 * SECOND

    def __call__(self) -> int:
        return self.ns


class Poller:
    """A source whose next question is asked when the test says so."""

    def __init__(
        self, url: str, clock: Clock | None = None, calendar: ExchangeCalendar | None = None
    ) -> None:
        self.clock = clock or Clock()
        self.waits: list[float] = []
        self._go = asyncio.Event()
        self.source = MarketStatusSource(url, KEY, clock=self.clock, sleep=self._sleep, calendar=calendar)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self._go.wait()
        self._go.clear()

    async def __aenter__(self) -> Poller:
        await self.source.start()
        await until(lambda: len(self.waits) == 1)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.source.stop()

    async def poll(self, advance_seconds: float = 0.0) -> None:
        """One more question, so much later."""
        self.clock.ns += round(advance_seconds * SECOND)
        before = len(self.waits)
        self._go.set()
        await until(lambda: len(self.waits) > before)


async def test_answer_is_read_and_the_key_sent_as_bearer(rest: RestServer) -> None:
    """Market, hours and the provider's time."""
    rest.put(answer("extended-hours", earlyHours=True))
    async with Poller(rest.url + "/") as poller:
        current = poller.source.current
        assert current is not None
        assert (current.market, current.early_hours, current.after_hours) == ("extended-hours", True, False)
        assert current.server_time_ms == 1_773_149_100_000  # 2026-03-10T13:25:00Z
        assert poller.source.now() is Market.EXTENDED
        assert poller.source.is_open() is True
        assert poller.source.health().ok
        assert rest.headers == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    ("body", "market", "is_open"),
    [
        (answer("open"), Market.OPEN, True),
        (answer("extended-hours"), Market.EXTENDED, True),
        (answer("closed"), Market.CLOSED, False),
        (answer("closed", afterHours=True), Market.EXTENDED, True),
        (answer("on fire"), Market.UNKNOWN, None),
    ],
)
async def test_words_of_the_provider(
    rest: RestServer, body: str, market: Market, is_open: bool | None
) -> None:
    """Anything else than its three words is unknown, never open or closed."""
    rest.put(body)
    async with Poller(rest.url) as poller:
        assert poller.source.now() is market
        assert poller.source.is_open() is is_open


async def test_currencies_have_hours_of_their_own(rest: RestServer) -> None:
    """Crypto trades while stocks are closed."""
    rest.put(answer("closed", currencies={"crypto": "open", "fx": "closed"}))
    async with Poller(rest.url) as poller:
        assert poller.source.now("crypto") is Market.OPEN
        assert poller.source.now("forex") is Market.CLOSED
        assert poller.source.now("stocks") is Market.CLOSED


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, answer()),
        (401, "no"),
        (302, ""),
        (200, "not json"),
        (200, "[]"),
        (200, "{}"),
        (200, '{"market": 5}'),
        (200, answer(server_time="yesterday")),
        (200, answer(server_time="2026-03-10T09:25:00")),
        (200, answer(padding="x" * MAX_BODY_BYTES)),
    ],
)
async def test_bad_answers_leave_the_market_unknown_and_are_asked_again_soon(
    rest: RestServer, status: int, body: str
) -> None:
    """Never an exception, never a guess; a redirect is not followed, it would carry the key away."""
    rest.put(body, status=status)
    async with Poller(rest.url) as poller:
        assert poller.source.current is None
        assert poller.source.is_open() is None
        assert poller.source.server_now_ms() is None
        health = poller.source.health()
        assert health.ok  # a load balancer must not drop a live platform for this
        assert health.detail.startswith("market status unknown: ")
        assert poller.waits[0] < 30.0
        assert len(rest.headers) == 1
        rest.put(answer())
        await poller.poll()
        assert poller.source.is_open() is True
        assert poller.waits[1] == 30.0


async def test_unreachable_server_is_logged_once(unused_tcp_port: int) -> None:
    """Not every two seconds of a long night, and without the key."""
    with structlog.testing.capture_logs() as logs:
        async with Poller(f"http://127.0.0.1:{unused_tcp_port}") as poller:
            for _ in range(3):
                await poller.poll(2.0)
            assert poller.source.failures == 4
    assert len([entry for entry in logs if entry["event"] == "market_status_failed"]) == 1
    assert KEY not in repr(logs) + poller.source.health().detail


async def test_old_answer_counts_as_unknown(rest: RestServer) -> None:
    """After some failed questions; the provider's clock is still carried on."""
    async with Poller(rest.url) as poller:
        rest.put("down", status=503)
        await poller.poll(60.0)
        assert poller.source.is_open() is True
        await poller.poll(61.0)
        assert poller.source.is_open() is None
        assert poller.source.server_now_ms() == 1_773_149_100_000 + 121_000


async def test_server_time_runs_on_between_answers(rest: RestServer) -> None:
    """By the monotonic clock: the wall clock of this machine plays no part."""
    async with Poller(rest.url) as poller:
        assert poller.source.server_now_ms() == 1_773_149_100_000
        poller.clock.ns += 12_345_000_000
        assert poller.source.server_now_ms() == 1_773_149_112_345


async def test_cut_off_seconds_are_made_good_by_the_best_of_many_answers(rest: RestServer) -> None:
    """Answers tell whole seconds: the one sent just after a full second is the truest."""
    async with Poller(rest.url) as poller:  # the server's true clock was at 09:25:00.9
        for server_time, advance in (("09:25:31", 30.2), ("09:26:01", 30.1), ("09:26:31", 30.3)):
            rest.put(answer(server_time=f"2026-03-10T{server_time}-04:00"))
            await poller.poll(advance)
        # True time at the last answer: 09:26:31.5; the lower bounds were .0, .8 of the true .9, ...
        now = poller.source.server_now_ms()
        true = 1_773_149_100_900 + 90_600
        assert now is not None
        assert true - 900 < now <= true


async def test_server_clock_that_goes_back_begins_anew(rest: RestServer) -> None:
    """A replay that starts again is on another day."""
    async with Poller(rest.url) as poller:
        rest.put(answer(server_time="2013-10-07T09:30:00-04:00"))
        await poller.poll(30.0)
        assert poller.source.server_now_ms() == 1_381_152_600_000


async def test_opening_that_was_seen_is_timed(rest: RestServer) -> None:
    """None where the market was open already when the first answer came."""
    async with Poller(rest.url) as poller:
        assert poller.source.open_for_ns() is None
        rest.put(answer("closed"))
        await poller.poll(30.0)
        rest.put(answer("extended-hours"))
        await poller.poll(30.0)
        assert poller.source.open_for_ns() == 0
        rest.put(answer("open"))
        await poller.poll(30.0)
        assert poller.source.open_for_ns() == 30 * SECOND


async def test_waiting_for_the_opening(rest: RestServer) -> None:
    """Returns at the first answer that is not `closed`."""
    rest.put(answer("closed"))
    async with Poller(rest.url) as poller:
        waiting = asyncio.ensure_future(poller.source.wait_until_open())
        await poller.poll(30.0)
        assert not waiting.done()
        rest.put(answer("extended-hours"))
        await poller.poll(30.0)
        await asyncio.wait_for(waiting, timeout=60)


async def test_waiting_ends_when_the_market_becomes_unknown(rest: RestServer) -> None:
    """A REST outage must not keep the feed down."""
    rest.put(answer("closed"))
    async with Poller(rest.url) as poller:
        waiting = asyncio.ensure_future(poller.source.wait_until_open())
        rest.put("down", status=503)
        await poller.poll(121.0)
        await asyncio.wait_for(waiting, timeout=60)


async def test_stops_while_a_request_hangs(rest: RestServer) -> None:
    """And twice, and before it was started."""
    rest.hang = True
    source = MarketStatusSource(rest.url, KEY)
    await source.stop()
    await source.start()
    await until(lambda: len(rest.headers) == 1)
    await asyncio.wait_for(source.stop(), timeout=60)
    await source.stop()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "market_status"]


def test_parse_refuses_what_has_no_offset() -> None:
    """A time without an offset could be anywhere."""
    with pytest.raises(ValueError, match="offset"):
        parse(answer(server_time="2026-03-10T09:25:00").encode(), 0)


# --- coming holidays ---

MOURNING = json.dumps(
    [
        {"date": "2026-03-12", "exchange": name, "name": "National Day of Mourning", "status": "closed"}
        for name in ("NYSE", "NASDAQ", "OTC")
    ]
)
CLOSED_DAY = date(2026, 3, 12)


async def test_coming_holidays_reach_the_calendar(rest: RestServer) -> None:
    """Once an hour, with the key as a bearer; without a calendar nobody asks."""
    rest.upcoming = [(200, MOURNING)]
    calendar = ExchangeCalendar()
    async with Poller(rest.url, calendar=calendar) as poller:
        assert not calendar.is_session(CLOSED_DAY)
        assert rest.upcoming_headers == [f"Bearer {KEY}"]
        await poller.poll(3_599.0)
        assert len(rest.upcoming_headers) == 1
        await poller.poll(1.0)
        assert len(rest.upcoming_headers) == 2
    async with Poller(rest.url):
        assert len(rest.upcoming_headers) == 2


async def test_holidays_wait_for_the_providers_date(rest: RestServer) -> None:
    """What is past and what is coming depends on it, and the wall clock does not tell it."""
    rest.put("down", status=503)
    rest.upcoming = [(200, MOURNING)]
    calendar = ExchangeCalendar()
    async with Poller(rest.url, calendar=calendar) as poller:
        assert rest.upcoming_headers == []
        rest.put(answer())
        await poller.poll(2.0)
        assert not calendar.is_session(CLOSED_DAY)


@pytest.mark.parametrize(
    ("status", "body"),
    [(404, "not here"), (500, MOURNING), (302, ""), (200, "<html>"), (200, "{}"), (200, '[{"date":7}]')],
)
async def test_holidays_that_cannot_be_had_leave_the_librarys_calendar(
    rest: RestServer, status: int, body: str
) -> None:
    """Asked again a minute later; the market's status is known all the same; said once."""
    rest.upcoming = [(status, body)]
    calendar = ExchangeCalendar()
    with structlog.testing.capture_logs() as logs:
        async with Poller(rest.url, calendar=calendar) as poller:
            assert poller.source.is_open() is True
            assert poller.source.upcoming_failures == 1
            assert calendar.revision == 0
            await poller.poll(59.0)
            assert len(rest.upcoming_headers) == 1
            await poller.poll(1.0)
            assert len(rest.upcoming_headers) == poller.source.upcoming_failures == 2
            rest.upcoming = [(200, MOURNING)]
            await poller.poll(60.0)
            assert not calendar.is_session(CLOSED_DAY)
            assert poller.source.upcoming_error == ""
    assert len([entry for entry in logs if entry["event"] == "holidays_failed"]) == 1
    assert KEY not in repr(logs)


async def test_refused_rows_are_counted_by_reason(rest: RestServer) -> None:
    """The good ones count."""
    rows = [*json.loads(MOURNING), {"date": "2026-03-13", "exchange": "NYSE", "status": "odd"}, 5]
    rest.upcoming = [(200, json.dumps(rows))]
    calendar = ExchangeCalendar()
    async with Poller(rest.url, calendar=calendar) as poller:
        assert poller.source.upcoming_refused == {"status": 1, "malformed": 1}
        assert not calendar.is_session(CLOSED_DAY)
        assert calendar.is_session(date(2026, 3, 13))


async def test_a_market_that_is_open_on_a_holiday_is_believed(rest: RestServer) -> None:
    """Good Friday 2026 by the library, a regular session by the provider."""
    good_friday = date(2026, 4, 3)
    calendar = ExchangeCalendar()
    rest.put(answer("closed", server_time="2026-04-03T05:00:00-04:00"))
    async with Poller(rest.url, calendar=calendar) as poller:
        assert not calendar.is_session(good_friday)
        rest.put(answer("open", server_time="2026-04-03T09:30:05-04:00"))
        await poller.poll(30.0)
        assert calendar.is_session(good_friday)


async def test_the_date_is_new_yorks(rest: RestServer) -> None:
    """20:30 on Thursday is Friday in London; extended hours then say nothing of Good Friday."""
    calendar = ExchangeCalendar()
    rest.put(answer("extended-hours", server_time="2026-04-03T00:30:00+00:00"))
    async with Poller(rest.url, calendar=calendar):
        assert not calendar.is_session(date(2026, 4, 3))
        assert calendar.revision == 0


async def test_the_simulators_list_is_the_librarys() -> None:
    """As the provider sends it: no row is refused, and no date becomes another by it."""
    simulator = Simulator(SimulatorOptions(symbols=5, start="2026-11-20T10:00:00"))
    await simulator.start()
    calendar = ExchangeCalendar()
    try:
        async with Poller(f"http://127.0.0.1:{simulator.port}", calendar=calendar) as poller:
            assert poller.source.upcoming_failures == 0
            assert poller.source.upcoming_refused == {}
    finally:
        await simulator.stop()
    assert calendar.revision == 1
    for number in range(365):
        day = date(2026, 11, 20) + timedelta(days=number)
        assert calendar.is_session(day) == US_STOCKS.is_session(day)
        assert calendar.close_of(day) == US_STOCKS.close_of(day)
