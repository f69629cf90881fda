"""Halts of all listings, from an exchange's public list: a second source beside the provider's LULD topic,
which halts Nasdaq listings only.

A source is a stage that hands `HaltNotice`s over; the analyzer `halts` makes them one story with the
tape's. To add one: subclass `HaltSource`, and name it in `[halts] source` as `package.module:Class`, or
publish it under the entry point group `mdp.halt_sources`.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

import aiohttp
import msgspec
import structlog

from mdp.cache.tasks import Background
from mdp.config import HaltsConfig
from mdp.events import HaltNotice
from mdp.stage import Health

from .outcome import one_line
from .trade_halts_rss import RssError, RssReader

log = structlog.get_logger(__name__)

REQUEST_SECONDS = 10.0
MAX_BODY_BYTES = 16 * 1024 * 1024  # 1.3 KB an item: enough for a halt of the whole market
PIECE_BYTES = 64 * 1024  # parsed before the loop is given back: about 3 ms
MAX_REDIRECTS = 3
MAX_WAIT_SECONDS = 900.0  # between two questions, however long the outage

Put = Callable[[list[HaltNotice]], object]


class HaltSource(ABC):
    """Base of the sources of halts: a stage.

    Args:
        config: `[halts]`.
        put: Takes what is known, again and again, older halts first; must not wait.
        now_ms: Market time; 0 while unknown. A notice's `timestamp` is this at the time it was learned.
    """

    name = "halt_source"

    def __init__(self, config: HaltsConfig, put: Put, now_ms: Callable[[], float]) -> None:
        self.config = config
        self.put = put
        self.now_ms = now_ms
        #: Questions asked, by outcome: a few fixed words. Read by metrics.
        self.polls: dict[str, int] = {}

    @abstractmethod
    async def start(self) -> None:
        """Begin to ask."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop asking. Safe to call twice, or before `start`."""

    @abstractmethod
    def health(self) -> Health:
        """Whether it is answered. Never makes the process unready: halts of the tape come all the same."""


class _Refused(Exception):
    """An answer that is of no use.

    Attributes:
        outcome: The label it is counted under.
    """

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


class TradeHalts(Background, HaltSource):
    """Polls Nasdaq Trader's RSS list, or one like it. Never raises for what the server does.

    Args:
        config: `[halts]`: `rss_url`, `poll_seconds`.
        put: See `HaltSource`.
        now_ms: See `HaltSource`.
        sleep: Waits between questions.
        rng: Spreads the questions of many.
        request_seconds: Bound of one question, redirects included.
    """

    SOURCE = "nasdaq"

    def __init__(
        self,
        config: HaltsConfig,
        put: Put,
        now_ms: Callable[[], float],
        *,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        rng: random.Random | None = None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        super().__init__(config, put, now_ms)
        self._sleep = sleep
        self._rng = rng or random.Random()
        self._request_seconds = request_seconds
        self._known: list[HaltNotice] | None = None  # of the last good answer
        self._validators: dict[str, str] = {}  # headers that ask for what is newer than that
        self._failures = 0  # since the last good answer
        self.last_error = ""
        self.malformed = 0  # items that could not be read

    def health(self) -> Health:
        if self._task is not None and self._task.done():
            return Health(True, "stopped after a defect: halts of the tape only")
        if self.last_error:
            return Health(True, f"no list of halts: {self.last_error}")
        return Health(True, "no answer yet" if self._known is None else f"{len(self._known)} halts listed")

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=self._request_seconds)
        # Bodies stay as they were sent: what inflates to more than it weighs cannot be bounded by weight.
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            while True:
                await self._poll(session)
                await self._sleep(self._pause())

    def _pause(self) -> float:
        """Seconds to the next question: the period, doubled with each failure, with a random share."""
        period = self.config.poll_seconds
        longest = max(period, min(MAX_WAIT_SECONDS, period * 2.0 ** min(self._failures, 32)))
        return longest * self._rng.uniform(1.0, 1.1)

    async def _poll(self, session: aiohttp.ClientSession) -> None:
        try:
            outcome = await self._ask(session)
        except _Refused as exc:
            self._failed(exc.outcome, one_line(exc))
        except RssError as exc:
            self._failed("malformed", one_line(exc))
        except TimeoutError:
            self._failed("timeout", f"no whole answer in {self._request_seconds:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            self._failed("network", one_line(exc) or type(exc).__name__)
        else:
            if self.last_error:
                log.info("halts_listed_again")
            self._failures, self.last_error = 0, ""
            self._count(outcome)
            self._deliver()

    def _count(self, outcome: str) -> None:
        self.polls[outcome] = self.polls.get(outcome, 0) + 1

    def _failed(self, outcome: str, error: str) -> None:
        self._count(outcome)
        self._failures += 1
        if error != self.last_error:  # not every question of a long outage
            log.warning("halts_not_listed", outcome=outcome, error=error)
        self.last_error = error

    async def _ask(self, session: aiohttp.ClientSession) -> str:
        """One question; returns `changed` or `unchanged`."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "mdp", **self._validators}
        url = self.config.rss_url
        async with session.get(url, headers=headers, max_redirects=MAX_REDIRECTS) as response:
            if url.startswith("https:") and response.url.scheme != "https":
                raise _Refused("http_error", "a redirect away from https")
            if response.status == 304 and self._known is not None:
                return "unchanged"
            if response.status != 200:
                raise _Refused("http_error", f"HTTP status {response.status}")
            reader, size = RssReader(self.SOURCE), 0
            async for piece in response.content.iter_chunked(PIECE_BYTES):
                size += len(piece)
                if size > MAX_BODY_BYTES:
                    raise _Refused("too_large", f"an answer of more than {MAX_BODY_BYTES} bytes")
                reader.feed(piece)
                await asyncio.sleep(0)
            # The list is newest first. A symbol's halts are a story, to be told from its beginning.
            self._known = sorted(reader.finish(), key=lambda notice: notice.halt_timestamp)
            self.malformed += reader.malformed
            tags = {"If-None-Match": "ETag", "If-Modified-Since": "Last-Modified"}
            self._validators = {
                ask: response.headers[tag] for ask, tag in tags.items() if tag in response.headers
            }
        return "changed"

    def _deliver(self) -> None:
        """Hand everything over, also what did not change: that a resumption still stands is news."""
        now = self.now_ms()
        if now and self._known:  # without a market time nothing can be placed in it
            self.put([msgspec.structs.replace(notice, timestamp=now) for notice in self._known])
