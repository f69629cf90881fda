"""The provider's REST API over aiohttp: bounded, patient, and silent about its key.

Bulk answers are several megabytes; bodies are handed over as bytes, and whoever wants them decodes
them in steps (see `mdp.cache.bulk`).
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from email.utils import parsedate_to_datetime

import aiohttp
import msgspec
import structlog
from yarl import URL

from mdp.cache.breaker import CLOSED, Breaker
from mdp.cache.bucket import TokenBucket
from mdp.cache.paths import endpoint_of
from mdp.observability.metrics import Metrics

log = structlog.get_logger(__name__)

#: Answers that may be better next time. 413 and 499 are the provider's own words for "too much at once".
RETRIED = frozenset({408, 413, 425, 429, 499, *range(500, 600)} - {501, 505})
#: Answers that say the endpoint is not there, or not for this key; asking again soon is no use.
ABSENT = frozenset({401, 402, 403, 404, 405, 410, 501})
#: A longer Retry-After is not waited for; the caller gets the error and decides.
MAX_RETRY_AFTER_SECONDS = 60.0
MAX_BODY_BYTES = 128 * 1024 * 1024
MAX_BURST = 10.0  # requests that may start at once after a pause
MAX_PAGES = 200

_NEXT_URL = re.compile(rb'"next_url"\s*:\s*("(?:[^"\\]|\\.)*")')


class RestError(Exception):
    """A request that was given up. The message names the path, never the key, query or body.

    Attributes:
        path: What was asked for.
        status: The HTTP status; 0 where there was no answer.
        retry_after: Seconds for which the server does not want to be asked again; 0 if it did not say.
        asked: False where nothing was sent, because the endpoint's circuit breaker is open.
    """

    def __init__(
        self, path: str, reason: str, *, status: int = 0, retry_after: float = 0.0, asked: bool = True
    ) -> None:
        super().__init__(f"GET {path}: {reason}")
        self.path = path
        self.reason = reason
        self.status = status
        self.retry_after = retry_after
        self.asked = asked

    @property
    def absent(self) -> bool:
        """Whether the endpoint is not there, or not for this key."""
        return self.status in ABSENT


class _Page(msgspec.Struct):
    next_url: str | None = None


class RestClient:
    """Asks one server, with a bearer key, for anything by GET.

    Args:
        base_url: Scheme, host, port and an optional path before every path asked for.
        api_key: Sent in the Authorization header only; empty sends none.
        concurrency: Requests at once; more wait.
        rate: Requests started per second at most, over any longer time; a second's worth may start at once.
        turn: Says how long to wait until a request may start, and counts it as started; instead of `rate`,
            where other processes share it (`mdp.cache.shared_rate`).
        timeout: Seconds for one try, body included.
        tries: Attempts at one request before it is given up.
        backoff: Seconds before the second try; doubles each time, with jitter, up to `max_backoff`.
        breaker_failures: Tries at one endpoint that fail in a row, before it is left alone for a while.
        clock, sleep, jitter: Injected by tests: monotonic seconds, waiting, a random number from 0 to 1.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        *,
        concurrency: int = 4,
        rate: float = 50.0,
        turn: Callable[[], Awaitable[float]] | None = None,
        timeout: float = 30.0,
        tries: int = 4,
        backoff: float = 0.5,
        max_backoff: float = 10.0,
        max_body_bytes: int = MAX_BODY_BYTES,
        breaker_failures: int = 8,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._base = URL(base_url.rstrip("/"))
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._slots = asyncio.Semaphore(concurrency)
        self._bucket = TokenBucket(rate, burst=min(rate, MAX_BURST))
        self._turn = turn
        self._breaker_failures = breaker_failures
        self._breakers: dict[str, Breaker] = {}  # by endpoint: a dozen
        self._timeout = aiohttp.ClientTimeout(total=timeout, sock_connect=min(10.0, timeout))
        self._tries = tries
        self._backoff, self._max_backoff = backoff, max_backoff
        self._max_body_bytes = max_body_bytes
        self._clock, self._sleep, self._jitter = clock, sleep, jitter
        self._session: aiohttp.ClientSession | None = None
        self._paused_until = 0.0
        self.requests: dict[tuple[str, str], int] = {}  # (endpoint, status or kind of failure) -> sent
        self.received_bytes = 0

    def __repr__(self) -> str:
        return f"RestClient({str(self._base)!r})"

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        """The body of `path`, tried again with back-off where that may help.

        Raises:
            RestError: It was given up, or the answer is final (404 and the like).
        """
        url = URL(f"{self._base}{path}")
        return await self._get(url.update_query(params) if params else url, path)

    async def pages(self, path: str, params: Mapping[str, str] | None = None) -> AsyncIterator[bytes]:
        """The bodies of `path` and of every `next_url` after it; each is asked for with the key.

        Raises:
            RestError: A page was given up, is not JSON, or points to another server, to a page that was
                there before, or to more than 200 of them. The pages before it were handed out.
        """
        url = URL(f"{self._base}{path}")
        if params:
            url = url.update_query(params)
        seen: set[URL] = set()
        while True:
            seen.add(url)
            body = await self._get(url, path)
            following = self._next(path, body)
            yield body
            if following is None:
                return
            if following in seen or len(seen) >= MAX_PAGES:
                raise RestError(path, f"next_url goes in circles or past {MAX_PAGES} pages")
            url = following

    async def close(self) -> None:
        """End all connections. Safe to call twice; a later `get` opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def register(self, metrics: Metrics) -> None:
        """Show the counters of this client."""
        metrics.counters(
            "mdp_rest_requests_total",
            "Requests to the provider's REST API, retries included, by endpoint and status or failure.",
            ("endpoint", "outcome"),
            lambda: self.requests,
        )
        metrics.gauges(
            "mdp_rest_breaker_open",
            "1 while an endpoint of the REST API is left alone because it only failed.",
            ("endpoint",),
            lambda: {(name,): one.state != CLOSED for name, one in self._breakers.items()},
        )
        metrics.counters(
            "mdp_rest_received_bytes_total",
            "Bytes of REST answers, decompressed.",
            (),
            lambda: {(): self.received_bytes},
        )

    def _next(self, path: str, body: bytes) -> URL | None:
        try:
            link = msgspec.json.decode(body, type=_Page).next_url
        except (msgspec.DecodeError, ValueError, RecursionError):
            # A body with one NaN in it is no JSON, but its rows and its link can still be read.
            found = _NEXT_URL.search(body)
            if found is None and not body.rstrip().endswith(b"}"):
                raise RestError(path, "the page is not JSON, or cut off") from None
            link = _text(found.group(1)) if found else None
        if not link:
            return None
        try:
            url = self._base.join(URL(link))
            ours = url.origin() == self._base.origin()
        except ValueError:
            ours = False
        if not ours:
            # Following it would hand the key to whoever runs that server.
            raise RestError(path, "next_url points to another server; not followed")
        kept = [(name, value) for name, value in url.query.items() if name.lower() != "apikey"]
        return url.with_query(kept) if len(kept) < len(url.query) else url

    async def _get(self, url: URL, path: str) -> bytes:
        endpoint = endpoint_of(path)
        breaker = self._breakers.get(endpoint)
        if breaker is None:
            breaker = self._breakers[endpoint] = Breaker(failures=self._breaker_failures)
        for attempt in range(1, self._tries + 1):
            async with self._slots:
                await self._wait_for_turn()
                if wait := breaker.allow(self._clock()):
                    reason = "not asked: the endpoint only failed lately"
                    raise RestError(path, reason, retry_after=wait, asked=False)
                try:
                    body = await self._fetch(url, path, endpoint)
                except RestError as exc:
                    error = exc
                    if error.status == 0 or error.status >= 500:
                        breaker.failed(self._clock())
                    else:  # also 429: it is alive, and told us when to come back
                        breaker.succeeded()
                except BaseException:
                    breaker.gave_up()
                    raise
                else:
                    breaker.succeeded()
                    return body
            if attempt == self._tries or not (error.status == 0 or error.status in RETRIED):
                break
            if error.retry_after > MAX_RETRY_AFTER_SECONDS:
                break
            await self._sleep(max(self._delay(attempt), error.retry_after))
        raise error

    def _delay(self, attempt: int) -> float:
        # Half of it is random, so that many clients that failed together do not come back together.
        longest = min(self._backoff * 2.0 ** (attempt - 1), self._max_backoff)
        return longest * (0.5 + self._jitter() / 2)

    async def _wait_for_turn(self) -> None:
        if self._turn is not None and (wait := await self._turn()):
            await self._sleep(wait)
        while True:
            now = self._clock()
            wait = self._paused_until - now
            if wait <= 0 and (self._turn is not None or not (wait := self._bucket.take(now))):
                return
            await self._sleep(wait)

    async def _fetch(self, url: URL, path: str, endpoint: str) -> bytes:
        """One try. Errors of aiohttp become ours: theirs may name URLs and addresses at length."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        try:
            # No redirects: they would carry the key wherever the answer says.
            async with self._session.get(url, headers=self._headers, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise self._refused(answer, path)
                body = await self._read(answer, path)
        except RestError as exc:
            self._count(endpoint, "too_large" if exc.status == 200 else str(exc.status))
            raise
        except TimeoutError:
            self._count(endpoint, "timeout")
            raise RestError(path, "no complete answer in time") from None
        except aiohttp.ClientPayloadError:
            self._count(endpoint, "truncated")
            raise RestError(path, "the answer was cut off") from None
        except (aiohttp.ClientError, OSError) as exc:
            self._count(endpoint, "connection")
            raise RestError(path, f"no connection ({type(exc).__name__})") from None
        self._count(endpoint, "200")
        self.received_bytes += len(body)
        return body

    async def _read(self, answer: aiohttp.ClientResponse, path: str) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while chunk := await answer.content.readany():
            size += len(chunk)
            if size > self._max_body_bytes:
                raise RestError(path, f"the answer has more than {self._max_body_bytes} bytes", status=200)
            chunks.append(chunk)
        return b"".join(chunks)

    def _refused(self, answer: aiohttp.ClientResponse, path: str) -> RestError:
        retry_after = _retry_after(answer)
        if retry_after:
            # Whoever asks next would only be told the same.
            pause = min(retry_after, MAX_RETRY_AFTER_SECONDS)
            self._paused_until = max(self._paused_until, self._clock() + pause)
        return RestError(path, f"HTTP {answer.status}", status=answer.status, retry_after=retry_after)

    def _count(self, endpoint: str, outcome: str) -> None:
        self.requests[endpoint, outcome] = self.requests.get((endpoint, outcome), 0) + 1


def _retry_after(answer: aiohttp.ClientResponse) -> float:
    """Seconds the server wants to be left alone; 0 if it does not say, or not so that one understands."""
    value = answer.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        # Against the server's own clock: ours may differ, and in a replay does.
        until = parsedate_to_datetime(value) - parsedate_to_datetime(answer.headers.get("Date", ""))
    except (TypeError, ValueError, IndexError):
        return 0.0
    return max(until.total_seconds(), 0.0)


def _text(literal: bytes) -> str | None:
    try:
        return msgspec.json.decode(literal, type=str)
    except (msgspec.DecodeError, ValueError):
        return None
