"""One client's connection: what waits to be sent to it, and when it is too slow."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

from aiohttp import WSMsgType, web

from .protocol import Subscriptions, status_frame

_CLOSE_GRACE_SECONDS = 5.0  # for a polite close before the transport is dropped

Counts = Mapping[str, int]  # events of a frame by `ev`


class Connection:
    """Sends frames in order, never makes the market wait, and counts what reached the socket."""

    def __init__(
        self,
        number: int,
        request: web.Request,
        ws: web.WebSocketResponse,
        subscriptions: Subscriptions,
        total: Counter[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.number = number
        self.market = request.match_info["market"]
        self.subscriptions = subscriptions
        self.key = ""  # of the client; empty until it is authenticated
        self.sent: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.waiting_bytes = 0
        self.closing = False
        self.hanging = False  # by fault: never answers the authentication
        self.room = asyncio.Event()  # set whenever a frame has left
        self._request = request
        self._ws = ws
        self._total = total
        self._clock = clock
        self._outbox: deque[tuple[bytes, Counts, float]] = deque()  # payload, its events, time of entry
        self._wake = asyncio.Event()
        self._writer = asyncio.create_task(self._write(), name=f"sim-writer-{number}")

    @property
    def live(self) -> bool:
        """Authenticated, subscribed to something, and not on the way out."""
        return bool(self.key and len(self.subscriptions)) and not self.closing

    def waited_seconds(self) -> float:
        """For how long the oldest frame has been waiting for the reader."""
        return self._clock() - self._outbox[0][2] if self._outbox else 0.0

    def put(self, payload: bytes, counts: Counts) -> None:
        """Queue a frame; without a bound here, the slow-consumer rule of the server is the bound."""
        if self.closing:
            return
        self._outbox.append((payload, counts, self._clock()))
        self.waiting_bytes += len(payload)
        self._wake.set()

    def put_status(self, *statuses: tuple[str, str]) -> None:
        """Queue one frame of status messages."""
        if statuses:
            self.statuses.update(status for status, _ in statuses)
            self.put(status_frame(statuses), {})

    async def _write(self) -> None:
        while True:
            while self._outbox:
                payload, counts, _ = self._outbox.popleft()
                self.waiting_bytes -= len(payload)
                try:
                    # The bytes are with the transport when this first waits (for it to drain).
                    self.sent.update(counts)
                    self._total.update(counts)
                    await self._ws.send_frame(payload, WSMsgType.TEXT)
                except (ConnectionError, RuntimeError):
                    self.sent.subtract(counts)
                    self._total.subtract(counts)
                    self._drop()
                    return
                self.room.set()
            self._wake.clear()
            self.room.set()
            await self._wake.wait()

    async def flush(self, timeout_seconds: float) -> bool:
        """Wait until nothing is queued; whether that came within the time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while self._outbox and not self.closing:
                    self.room.clear()
                    await self.room.wait()
        except TimeoutError:
            return False
        return not self._outbox

    async def close(self, code: int, *statuses: tuple[str, str], flush: bool = True) -> None:
        """Say why, then close with `code`; at most some seconds, then the transport is dropped.

        `flush` sends first what is queued; without it, that is thrown away.
        """
        if self.closing:
            return
        if flush:
            self.put_status(*statuses)
            await self.flush(_CLOSE_GRACE_SECONDS)
        self._drop()
        with contextlib.suppress(ConnectionError, RuntimeError, TimeoutError):
            async with asyncio.timeout(_CLOSE_GRACE_SECONDS):
                if not flush and statuses:
                    self.statuses.update(status for status, _ in statuses)
                    await self._ws.send_frame(status_frame(statuses), WSMsgType.TEXT)
                await self._ws.close(code=code, message=(statuses[0][0] if statuses else "").encode())
                return
        self.abort()

    def abort(self) -> None:
        """Drop the connection without a word, as a broken line does."""
        self._drop()
        if self._request.transport is not None:
            self._request.transport.abort()

    async def hang_up(self) -> None:
        """Send what is queued, then end the TCP connection without a WebSocket close."""
        await self.flush(_CLOSE_GRACE_SECONDS)
        self._drop()
        if self._request.transport is not None:
            self._request.transport.close()

    def _drop(self) -> None:
        self.closing = True
        self._outbox.clear()
        self.waiting_bytes = 0
        self.room.set()
        if asyncio.current_task() is not self._writer:
            self._writer.cancel()

    async def finish(self) -> None:
        """Release what the connection holds; when the handler ends."""
        self._drop()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writer
