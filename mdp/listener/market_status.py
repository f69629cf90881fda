"""The provider's word on whether the market is open and what time it is there.

Never the wall clock: a demo on a Sunday, or a replay of an old day, behaves as on its own day. The same
source asks which holidays and half days are coming, and tells the calendar.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import date, datetime
from typing import Protocol

import aiohttp
import msgspec
import structlog

from mdp.cache.tasks import Background
from mdp.exchange_calendar import NEW_YORK, ExchangeCalendar, parse_upcoming
from mdp.stage import Health

from .outcome import one_line
from .watchdog import Market

log = structlog.get_logger(__name__)

PERIOD_SECONDS = 30.0
UNKNOWN_PERIOD_SECONDS = 2.0  # while nothing is known
REQUEST_SECONDS = 5.0
MAX_BODY_BYTES = 64 * 1024
STALE_PERIODS = 4  # without an answer, before what was known counts as unknown
UPCOMING_SECONDS = 3_600.0  # between two questions for coming holidays: closings are announced days ahead
UPCOMING_RETRY_SECONDS = 60.0
CLOCK_SAMPLES = 20
CLOCK_JUMP_MS = 5_000  # a server clock that moved so far back is another day's (a replay began again)


class MarketStatus(msgspec.Struct, frozen=True):
    """One answer."""

    market: str  # "open", "extended-hours" or "closed"
    early_hours: bool
    after_hours: bool
    server_time_ms: int | None  # epoch milliseconds, as sent: whole seconds on the real provider
    fetched_ns: int  # monotonic, when the answer arrived
    crypto: str = ""  # "open" or "closed"
    fx: str = ""


class MarketView(Protocol):
    """What the listener wants to know of the market."""

    def now(self, market: str = "stocks") -> Market:
        """What is known of a market now."""

    def open_for_ns(self) -> int | None:
        """For how long it has been open, None where its opening was not seen."""

    def server_now_ms(self) -> int | None:
        """The provider's time in epoch milliseconds, None while unknown."""

    async def wait_until_open(self, market: str = "stocks") -> None:
        """Return once the market is not known to be closed."""


class _Currencies(msgspec.Struct):
    crypto: str = ""
    fx: str = ""


class _Answer(msgspec.Struct, rename="camel"):
    market: str
    early_hours: bool | None = None
    after_hours: bool | None = None
    server_time: str | None = None
    currencies: _Currencies = msgspec.field(default_factory=_Currencies)


_decode = msgspec.json.Decoder(_Answer).decode
_TRADING = frozenset({"open", "extended-hours"})


def parse(body: bytes, fetched_ns: int) -> MarketStatus:
    """Read an answer of `/v1/marketstatus/now`.

    Raises:
        ValueError: It is not such an answer.
    """
    answer = _decode(body)  # msgspec's errors are ValueErrors
    server_ms: int | None = None
    if answer.server_time:
        moment = datetime.fromisoformat(answer.server_time)
        if moment.tzinfo is None:
            raise ValueError("serverTime has no offset from UTC")
        server_ms = round(moment.timestamp() * 1000)
    return MarketStatus(
        market=answer.market,
        early_hours=bool(answer.early_hours),
        after_hours=bool(answer.after_hours),
        server_time_ms=server_ms,
        fetched_ns=fetched_ns,
        crypto=answer.currencies.crypto,
        fx=answer.currencies.fx,
    )


class MarketStatusSource(Background):
    """Asks the provider again and again. A stage; never raises for what the provider does.

    Args:
        rest_url: Base of the REST endpoints.
        api_key: Sent as a bearer token; never logged.
        period_seconds: Between two questions while the answers are good.
        clock: Monotonic nanoseconds.
        sleep: Waits between questions.
        calendar: What is told of the provider's coming holidays, and of a market that is open on a day that
            was taken for closed; None: holidays are not asked for.
    """

    name = "market_status"

    def __init__(
        self,
        rest_url: str,
        api_key: str,
        *,
        period_seconds: float = PERIOD_SECONDS,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        calendar: ExchangeCalendar | None = None,
    ) -> None:
        self._url = rest_url.rstrip("/") + "/v1/marketstatus/now"
        self._upcoming_url = rest_url.rstrip("/") + "/v1/marketstatus/upcoming"
        self._api_key = api_key
        self._period_seconds = period_seconds
        self._clock = clock
        self._sleep = sleep
        self._calendar = calendar
        self._upcoming_due_ns = 0
        self._known: MarketStatus | None = None
        self._offsets_ms: deque[float] = deque(maxlen=CLOCK_SAMPLES)  # server time - monotonic time
        self._opened_ns: int | None = None
        self._answered = asyncio.Event()  # set and cleared at each change, wakes who waits
        self.polls = 0
        self.failures = 0
        self.last_error = ""
        #: Of coming holidays: answers that could not be had or read, and rows refused by reason.
        self.upcoming_failures = 0
        self.upcoming_refused: dict[str, int] = {}
        self.upcoming_error = ""

    @property
    def current(self) -> MarketStatus | None:
        """The newest answer, None while there is none that is fresh enough."""
        known = self._known
        if known is None:
            return None
        age_ns = self._clock() - known.fetched_ns
        return known if age_ns <= STALE_PERIODS * self._period_seconds * 1e9 else None

    def health(self) -> Health:
        """Always good: the platform serves without an answer (unknown counts as open), and not every server
        that speaks the provider's protocol gives one. What is known is in the detail."""
        current = self.current
        if current is not None:
            return Health(True, f"market is {current.market}")
        return Health(True, f"market status unknown: {self.last_error or 'no answer yet'}")

    def now(self, market: str = "stocks") -> Market:
        """What is known of a market now; currencies have hours of their own."""
        current = self.current
        if current is None:
            return Market.UNKNOWN
        said = {"crypto": current.crypto, "forex": current.fx}.get(market, current.market)
        if said == "open":
            return Market.OPEN
        if said == "extended-hours" or (market == "stocks" and (current.early_hours or current.after_hours)):
            return Market.EXTENDED
        return Market.CLOSED if said == "closed" else Market.UNKNOWN

    def is_open(self) -> bool | None:
        """Whether stocks trade, extended hours included; None while unknown."""
        now = self.now()
        return None if now is Market.UNKNOWN else now is not Market.CLOSED

    def open_for_ns(self) -> int | None:
        """For how long stocks have been trading, None where the opening was not seen."""
        return None if self._opened_ns is None else self._clock() - self._opened_ns

    def server_now_ms(self) -> int | None:
        """The provider's time now, in epoch milliseconds; None before the first answer.

        Its answers tell whole seconds, cut off, and travel for a while: each sets a lower bound of the
        true difference between the clocks, so the greatest of the last answers is the best.
        """
        if not self._offsets_ms:
            return None
        return round(max(self._offsets_ms) + self._clock() / 1e6)

    async def wait_until_open(self, market: str = "stocks") -> None:
        """Return once the market is not known to be closed."""
        while self.now(market) is Market.CLOSED:
            await self._answered.wait()

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await self._poll(session)
                await self._poll_upcoming(session)
                known = self.current is not None
                await self._sleep(
                    self._period_seconds if known else min(UNKNOWN_PERIOD_SECONDS, self._period_seconds)
                )

    async def _poll(self, session: aiohttp.ClientSession) -> None:
        self.polls += 1
        try:
            self._take(parse(await self._get(session, self._url), self._clock()))
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            self.failures += 1
            error = one_line(exc, (self._api_key,)) or type(exc).__name__
            if error != self.last_error:  # not every period of a long outage
                log.warning("market_status_failed", error=error)
            self.last_error = error
        finally:
            self._answered.set()  # what was known may have become stale
            self._answered.clear()

    async def _poll_upcoming(self, session: aiohttp.ClientSession) -> None:
        """Ask for coming holidays where it is time to; the provider's date must be known for it."""
        now_ms = self.server_now_ms()
        if self._calendar is None or now_ms is None or self._clock() < self._upcoming_due_ns:
            return
        wait_seconds = UPCOMING_RETRY_SECONDS
        try:
            announced, refused = parse_upcoming(await self._get(session, self._upcoming_url))
            for reason, rows in refused.items():
                self.upcoming_refused[reason] = self.upcoming_refused.get(reason, 0) + rows
            if refused:
                log.warning("holidays_refused", rows=refused)
            if self._calendar.learn(announced, _date_at(now_ms)):
                log.info("holidays", known=len(announced), first=str(announced[0].day) if announced else None)
            self.upcoming_error = ""
            wait_seconds = UPCOMING_SECONDS
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as exc:
            self.upcoming_failures += 1
            error = one_line(exc, (self._api_key,)) or type(exc).__name__
            if error != self.upcoming_error:  # the library's calendar serves meanwhile
                log.warning("holidays_failed", error=error)
            self.upcoming_error = error
        self._upcoming_due_ns = self._clock() + round(wait_seconds * 1e9)

    async def _get(self, session: aiohttp.ClientSession, url: str) -> bytes:
        """The body of a good answer; raises ValueError for another one, and what aiohttp raises."""
        headers = {"Authorization": f"Bearer {self._api_key}"}
        # A redirect would carry the key to another host.
        async with session.get(url, headers=headers, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"HTTP status {response.status}")
            body = bytearray()
            async for chunk in response.content.iter_chunked(MAX_BODY_BYTES):
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise ValueError(f"an answer of more than {MAX_BODY_BYTES} bytes")
        return bytes(body)

    def _take(self, status: MarketStatus) -> None:
        previous, self._known = self._known, status
        if self.last_error or previous is None or previous.market != status.market:
            log.info("market_status", market=status.market)
        self.last_error = ""
        was_closed = previous is not None and previous.market == "closed"
        if status.market == "closed":
            self._opened_ns = None
        elif was_closed:
            self._opened_ns = status.fetched_ns
        if status.server_time_ms is not None:
            if self._calendar is not None and status.market in _TRADING:
                day = _date_at(status.server_time_ms)
                if self._calendar.learn_open(day, regular=status.market == "open"):
                    log.warning("open_on_a_holiday", day=str(day), hint="the calendar took it for closed")
            offset = status.server_time_ms - status.fetched_ns / 1e6
            if self._offsets_ms and offset < max(self._offsets_ms) - CLOCK_JUMP_MS:
                self._offsets_ms.clear()
            self._offsets_ms.append(offset)


def _date_at(ms: int) -> date:
    """The New York date of a time in epoch milliseconds."""
    return datetime.fromtimestamp(ms / 1000, NEW_YORK).date()
