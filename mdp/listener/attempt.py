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
from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.frames import DATA_OPCODES, Frame
from websockets.protocol import Event

from mdp.config import MassiveConfig

from .outcome import Next, Outcome, of_close, of_error, of_status, one_line, statuses_of
from .ring import Frame as RawFrame
from .ring import RawRing
from .states import ListenerCounters

if TYPE_CHECKING:
    from .recorder import Recorder

log = structlog.get_logger(__name__)

#: Frames that may wait between socket and callback before the socket is not read any more.
MAX_QUEUE = 128
#: How long the callback may read what is buffered before the loop turns.
MAX_BURST_NS = 2_000_000
#: A pong waits behind the data in front of it; under overload that is many seconds.
PING_INTERVAL_SECONDS, PING_TIMEOUT_SECONDS = 20.0, 60.0
#: For the closing handshake; then the socket is dropped. Stopping must stay within 1.5 s.
CLOSE_SECONDS = 0.5
#: The decoder may not have seen yet what the provider said before it closed with 1008.
VERDICT_GRACE_SECONDS = 0.25

#: Before Python 3.12 `asyncio.wait_for` runs its argument as a task, so the client gives the loop back
#: at every frame by itself.
CLIENT_YIELDS = sys.version_info < (3, 12)

Callback = Callable[[RawFrame], Awaitable[None]]

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
        self._connection: _Connection | None = None
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
        """What the client awaits for each frame. Everything here is paid per frame."""
        sink = self._sink
        ring, clock, counters = sink.ring, sink.clock, sink.counters
        append = ring.append

        async def on_frame(frame: RawFrame) -> None:
            now = clock()
            append(frame, now)
            counters.frames += 1
            counters.last_frame_ns = now
            sink.last_frame = frame
            if not self.first_frame_ns:
                self._on_first_frame(now)
            if sink.recorder is not None:
                sink.recorder.offer(frame, sink.wall_ns())
            if ring.holding:  # a source that sends as fast as we read is slowed down by TCP
                await ring.released()

        if self._client_yields:
            return on_frame
        return yielding(on_frame, clock)

    def _new_connection(self, protocol: ClientProtocol, **options: Any) -> ClientConnection:
        return _Connection(protocol, self, **options)

    def opened(self, connection: _Connection) -> None:
        """The handshake is done (called by the connection)."""
        self._connection = connection
        if not self._over:
            self._on_open()

    def auth_answered(self, frame: bytes) -> None:
        """The second message, which the client swallows (called by the connection)."""
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

    def _on_first_frame(self, now_ns: int) -> None:
        self.first_frame_ns = now_ns
        for status in statuses_of(self._sink.last_frame):
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
        if self.first_frame_ns and not (exc is None or isinstance(exc, ConnectionClosed)):
            outcome = Outcome("internal", f"a frame could not be taken: {one_line(repr(exc), self._secrets)}")
        elif connection is None or not (exc is None or isinstance(exc, ConnectionClosed)):
            outcome = of_error(exc or ConnectionResetError("the client gave up"), self._secrets)
        else:
            # Received from the server; or sent by us, for a frame above the limit or a ping without pong.
            protocol = connection.protocol
            close = protocol.close_rcvd or protocol.close_sent
            outcome = of_close(close.code if close else None, close.reason if close else "", self._secrets)
        if outcome.then is not Next.RETRY:
            self.end(outcome)
            return
        for status in statuses_of(self._sink.last_frame) if self.first_frame_ns else ():
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


class _Connection(ClientConnection):
    """The library's connection, which tells the attempt what the official client keeps to itself."""

    def __init__(self, protocol: ClientProtocol, attempt: Attempt, **options: Any) -> None:
        super().__init__(protocol, **options)
        self._attempt = attempt
        self._messages = 0
        # Shadows the method until the second message has passed: from then on it costs nothing.
        self.process_event = self._process_opening  # type: ignore[method-assign]

    async def handshake(self, *args: Any, **options: Any) -> None:
        """Perform the opening handshake and report that it succeeded."""
        await super().handshake(*args, **options)
        self._attempt.opened(self)

    def _process_opening(self, event: Event) -> None:
        super().process_event(event)
        if isinstance(event, Frame) and event.opcode in DATA_OPCODES:
            self._messages += 1
            if self._messages == 2:
                del self.__dict__["process_event"]
                self._attempt.auth_answered(bytes(event.data))


def yielding(callback: Callback, clock: Callable[[], int]) -> Callback:
    """A callback that also gives the loop back after 2 ms of reading what is buffered.

    A burst begins at the first frame after a turn of the loop, which a `call_soon` marks: it costs one
    call a turn and one comparison a frame.
    """
    burst_start_ns = 0

    def turned() -> None:
        nonlocal burst_start_ns
        burst_start_ns = 0

    async def on_frame(frame: RawFrame) -> None:
        nonlocal burst_start_ns
        if not burst_start_ns:
            burst_start_ns = clock()
            asyncio.get_running_loop().call_soon(turned)
            await callback(frame)
            return
        await callback(frame)
        if clock() - burst_start_ns >= MAX_BURST_NS:
            await asyncio.sleep(0)

    return on_frame


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
