"""One connection of the official client, from dialling to its end, with the reason why it ended.

The client keeps silent about much: it dials for ever, swallows the first two messages
and returns without an error on a clean close. What it hides is seen here through the arguments that
its `connect()` hands on: a connection class that reports the handshake and the authentication
answer, and a logger of our own that is called with the error of a failed dial at hand.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import structlog
from massive import WebSocketClient
from massive.websocket.models import Feed
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed

from mdp.config import MassiveConfig

from .connection import MAX_QUEUE, Burst, BurstConnection
from .outcome import Next, Outcome, of_answer, of_close, of_error, of_status, one_line, statuses_of
from .ring import Frame as RawFrame
from .ring import RawRing
from .states import ListenerCounters

if TYPE_CHECKING:
    from .recorder import Recorder

log = structlog.get_logger(__name__)

#: How long the callback may read what is buffered before the loop turns.
MAX_READ_NS = 2_000_000
#: A pong waits behind the data in front of it; under overload that is many seconds.
PING_INTERVAL_SECONDS, PING_TIMEOUT_SECONDS = 20.0, 60.0
#: For the closing handshake; then the socket is dropped. Stopping must stay within 1.5 s.
CLOSE_SECONDS = 0.5
#: The decoder may not have seen yet what the provider said before it closed with 1008.
VERDICT_GRACE_SECONDS = 0.25

#: Before Python 3.12 `asyncio.wait_for` runs its argument as a task, so the client gives the loop back
#: at every burst by itself.
CLIENT_YIELDS = sys.version_info < (3, 12)

Callback = Callable[[Burst], Awaitable[None]]

_FEEDS = {"RealTime": Feed.RealTime, "Delayed": Feed.Delayed}


class FrameSink:
    """Where frames of all attempts go, and what is known of the newest one."""

    __slots__ = ("clock", "counters", "last_frame", "recorder", "ring", "wall_ns")

    def __init__(
        self,
        ring: RawRing,
        *,
        clock: Callable[[], int] = time.monotonic_ns,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.ring = ring
        self.clock = clock  # monotonic, ns
        self.wall_ns = wall_ns  # epoch, ns: only recordings use it
        self.counters = ListenerCounters()
        self.recorder: Recorder | None = None
        self.last_frame: RawFrame = ""

    def take(self, burst: Burst, now: int) -> None:
        """Hand frames on. What the loop does is paid per frame.

        Args:
            burst: One frame at least.
            now: When they were read, monotonic ns.
        """
        append, counters = self.ring.append, self.counters
        for frame in burst:
            append(frame, now)
        counters.frames += len(burst)
        counters.last_frame_ns = now
        self.last_frame = burst[-1]
        if self.recorder is not None:
            for frame in burst:
                self.recorder.offer(frame, self.wall_ns())


class Attempt:
    """One official client and its connection. Runs once.

    Args:
        config: Limits, times and the key.
        subscriptions: Pairs to ask for.
        sink: Where frames go.
        on_open: Called when the WebSocket is open (authentication follows).
        on_live: Called at the first authenticated frame, just after it was appended.
        client_yields: Whether the client gives the loop back at each frame by itself.
    """

    def __init__(
        self,
        config: MassiveConfig,
        subscriptions: frozenset[str],
        sink: FrameSink,
        *,
        on_open: Callable[[], None],
        on_live: Callable[[], None],
        client_yields: bool = CLIENT_YIELDS,
    ) -> None:
        self._config = config
        self._sink = sink
        self._on_open = on_open
        self._on_live = on_live
        self._secrets = (config.api_key,)
        self._connection: BurstConnection | None = None
        self._verdict: asyncio.Future[Outcome] | None = None
        self._authenticated = False
        self._client_yields = client_yields
        self.first_frame_ns = 0  # monotonic arrival; 0: not live yet
        self._client = WebSocketClient(
            api_key=config.api_key,
            feed=_FEEDS.get(config.feed, config.feed),
            market=config.market,
            raw=True,
            subscriptions=sorted(subscriptions),
            max_reconnects=0,
            secure=config.secure,
        )
        _silence_client_logger()

    @property
    def data_seconds(self) -> float:
        """For how long data came, first frame to last."""
        if not self.first_frame_ns:
            return 0.0
        return (self._sink.counters.last_frame_ns - self.first_frame_ns) / 1e9

    async def run(self) -> Outcome:
        """Connect, read until the connection ends, and say why. Cancelling closes the connection."""
        loop = asyncio.get_running_loop()
        verdict: asyncio.Future[Outcome] = loop.create_future()
        self._verdict = verdict
        task = loop.create_task(
            self._client.connect(
                self._callback(),
                close_timeout=1,
                max_size=self._config.max_frame_bytes,
                max_queue=MAX_QUEUE,
                compression="deflate" if self._config.compression else None,
                proxy=None,
                open_timeout=self._config.connect_timeout_seconds,
                ping_interval=PING_INTERVAL_SECONDS,
                ping_timeout=PING_TIMEOUT_SECONDS,
                logger=_dial_logger(self._on_dial_failed),
                create_connection=self._new_connection,
            ),
            name="massive-client",
        )
        task.add_done_callback(self._on_client_done)
        deadline = loop.call_later(self._config.connect_timeout_seconds, self._on_deadline)
        try:
            return await verdict
        finally:
            deadline.cancel()
            await self._close(task)

    def end(self, outcome: Outcome) -> None:
        """End the attempt with this outcome, unless it has one already. `run` returns soon after."""
        if self._verdict is not None and not self._verdict.done():
            self._verdict.set_result(outcome)

    def resubscribe(self, wanted: frozenset[str]) -> None:
        """Make `wanted` the subscriptions of the live connection (within a second)."""
        client = self._client
        client.unsubscribe(*sorted(client.scheduled_subs - wanted))
        client.subscribe(*sorted(wanted - client.scheduled_subs))
        # With a wildcard both drop too much: "A.*" counts as a prefix of "AM.*", and so of itself.
        client.scheduled_subs = set(wanted)

    def _callback(self) -> Callback:
        """What the client awaits for each burst."""
        ring, clock = self._sink.ring, self._sink.clock

        async def on_burst(burst: Burst) -> None:
            now = clock()
            first = not self.first_frame_ns
            if first:
                self.first_frame_ns = now
            self._sink.take(burst, now)
            if first:
                self._on_first_frame(burst[0])
            if ring.holding:  # a source that sends as fast as we read is slowed down by TCP
                await ring.released()

        if self._client_yields:
            return on_burst
        return yielding(on_burst, clock)

    def _new_connection(self, protocol: ClientProtocol, **options: Any) -> BurstConnection:
        return BurstConnection(protocol, self._opened, self._auth_answered, **options)

    def _opened(self, connection: BurstConnection) -> None:
        self._connection = connection
        if not self._over:
            self._on_open()

    def _auth_answered(self, frame: bytes) -> None:
        for status in statuses_of(frame):
            if status.status == "auth_success":
                self._authenticated = True
                continue
            log.warning(
                "feed_auth_answer",
                status=one_line(status.status, self._secrets),
                message=one_line(status.message, self._secrets),
            )
            # The client raises on `auth_failed` itself and takes any other answer for success.
            outcome = of_status(status.status, one_line(status.message, self._secrets))
            if outcome is not None and outcome.then is not Next.GIVE_UP:
                self.end(outcome)

    @property
    def _over(self) -> bool:
        return self._verdict is None or self._verdict.done()

    def _on_first_frame(self, frame: bytes) -> None:
        for status in statuses_of(frame):
            # `max_connections` may be all that ever comes: such a connection never was live.
            outcome = of_status(status.status, one_line(status.message, self._secrets))
            if outcome is not None:
                self.end(outcome)
        if not self._over:
            self._on_live()

    def _on_dial_failed(self, exc: BaseException) -> None:
        if self._connection is None:
            self.end(of_error(exc, self._secrets))

    def _on_deadline(self) -> None:
        if self.first_frame_ns:
            return
        within = f"within {self._config.connect_timeout_seconds:g} s"
        if self._authenticated:
            self.end(Outcome("no_data", f"authenticated, but no answer to the subscriptions {within}"))
        elif self._connection is not None:
            self.end(Outcome("no_auth_answer", f"connected, but no answer to the authentication {within}"))
        else:
            self.end(Outcome("timeout", f"no connection {within}"))

    def _on_client_done(self, task: asyncio.Task[None]) -> None:
        """The client returned or raised; either way the connection is over."""
        if task.cancelled():
            self.end(Outcome("cancelled", "the client was cancelled"))
            return
        exc = task.exception()
        connection = self._connection
        unread: Burst = []
        if connection is not None and (exc is None or isinstance(exc, ConnectionClosed)):
            # Where the provider closes at once, the client fails to subscribe and reads nothing more.
            unread = connection.rest()
            if unread:
                self._sink.take(unread, self._sink.clock())
        if self.first_frame_ns and not (exc is None or isinstance(exc, ConnectionClosed)):
            outcome = Outcome("internal", f"a frame could not be taken: {one_line(repr(exc), self._secrets)}")
        elif connection is None:
            outcome = of_error(exc or ConnectionResetError("the client gave up"), self._secrets)
        elif not (exc is None or isinstance(exc, ConnectionClosed)):
            outcome = of_answer(exc, self._secrets)
        else:
            # Received from the server; or sent by us, for a frame above the limit or a ping without pong.
            protocol = connection.protocol
            close = protocol.close_rcvd or protocol.close_sent
            outcome = of_close(close.code if close else None, close.reason if close else "", self._secrets)
        if outcome.then is not Next.RETRY:
            self.end(outcome)
            return
        for status in statuses_of(self._sink.last_frame) if self.first_frame_ns or unread else ():
            said = of_status(status.status, one_line(status.message, self._secrets))
            if said is not None:
                self.end(said)
                return
        if outcome.reason == "closed_1008" and self._verdict is not None:
            self._verdict.get_loop().call_later(VERDICT_GRACE_SECONDS, self.end, outcome)
        else:
            self.end(outcome)

    async def _close(self, task: asyncio.Task[None]) -> None:
        """Free the provider's one slot: say goodbye politely, but not for long, and leave no task behind."""
        connection = self._connection
        if connection is not None:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await connection.close()
            except Exception:  # noqa: S110 - it is broken anyway, and dropped next
                pass
            finally:
                connection.transport.abort()
        # On Python 3.11 wait_for swallows a cancellation that meets a finished read, so one is not enough.
        for _ in range(10):
            if task.done():
                break
            task.cancel()
            await asyncio.wait({task}, timeout=0.05)
        self._client.websocket = None


def yielding(callback: Callback, clock: Callable[[], int]) -> Callback:
    """A callback that also gives the loop back after 2 ms of reading what is buffered.

    The time begins at the first call after a turn of the loop, which a `call_soon` marks: it costs one
    call a turn and one comparison a burst.
    """
    began_ns = 0

    def turned() -> None:
        nonlocal began_ns
        began_ns = 0

    async def on_burst(burst: Burst) -> None:
        nonlocal began_ns
        if not began_ns:
            began_ns = clock()
            asyncio.get_running_loop().call_soon(turned)
            await callback(burst)
            return
        await callback(burst)
        if clock() - began_ns >= MAX_READ_NS:
            await asyncio.sleep(0)

    return on_burst


class _DialHandler(logging.Handler):
    """Receives the library's "connect failed" line, while the error is being handled."""

    def __init__(self, report: Callable[[BaseException], None]) -> None:
        super().__init__()
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        """Report the error at hand; lines without one are dropped."""
        exc = sys.exc_info()[1]
        if exc is not None:
            self._report(exc)


def _dial_logger(report: Callable[[BaseException], None]) -> logging.Logger:
    """A logger for one attempt, outside the hierarchy.

    At level INFO the library never formats what it sends: its debug lines would show the key.
    """
    logger = logging.Logger("mdp.listener.dial", level=logging.INFO)
    logger.addHandler(_DialHandler(report))
    return logger


def _silence_client_logger() -> None:
    """Stop the official client from logging, by default to standard output.

    It logs answers of the server as they are, with the key if a server echoes it. What it would say is
    in the outcome of the attempt, masked.
    """
    logger = logging.getLogger("WebSocketClient")
    logger.handlers = [logging.NullHandler()]
    logger.propagate = False
    logger.disabled = True  # a filter of somebody else's could hand its entries on
