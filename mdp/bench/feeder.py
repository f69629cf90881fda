"""The feeder: a process that plays the provider, sends frames and holds the platform's clients.

It speaks the provider's WebSocket protocol on a loopback port and answers the few REST calls of a
starting platform on another. `mdp.bench.ingest` starts it (`python -m mdp.bench.feeder OPTIONS`) and
steers it over stdin and stdout (`mdp.bench.control`); it ends when stdin does.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import time
from collections import deque
from collections.abc import Coroutine

import msgspec
import uvloop
from aiohttp import web
from websockets.frames import Frame as WebSocketFrame
from websockets.frames import Opcode
from websockets.http11 import Request as HttpRequest
from websockets.protocol import State
from websockets.server import ServerProtocol

from mdp.bench import control, rest
from mdp.bench.clients import Clients
from mdp.bench.frames import FrameSource
from mdp.bench.outbox import Outbox
from mdp.bench.pump import Pump
from mdp.bench.wire import text_frame
from mdp.simulator import protocol

_SEND_BUFFER_BYTES = 512 * 1024  # of the kernel: what is behind it waits where the feeder sees it
_TOPICS = {"all": "TQA", "aggregates": "A"}


class Feeder:
    """One provider for one platform: any connection may subscribe, the newest gets the frames."""

    def __init__(self, options: control.FeederOptions) -> None:
        self._options = options
        self._source = FrameSource(options.frames, pool_events=options.pool_events)
        self._pump = Pump(
            self._source,
            base_ms=options.base_ms,
            slow_bytes=options.slow_consumer_bytes,
            slow_seconds=options.slow_consumer_seconds,
            cut=self._cut_off,
        )
        self._clients = Clients()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._current: _Connection | None = None
        self._outboxes: deque[Outbox] = deque(maxlen=100)  # of connections that were sent frames
        self._subscribed = asyncio.Event()
        self._subscriptions = 0
        self._cut = ""
        self._listening: socket.socket | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> control.Ready:
        """Listen on two free loopback ports."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self._spawn(self._accept(self._listening))
        application = rest.application(
            self._source.market.listings, lambda: self._pump.market_ms, self._options.rest
        )
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        gc.collect()
        gc.freeze()  # the pool is never garbage; collecting it again and again would delay frames
        return control.Ready(
            ws_port=self._listening.getsockname()[1],
            rest_port=self._runner.addresses[0][1],
            mean_frame_bytes=self._source.mean_bytes,
        )

    async def stop(self) -> None:
        """Close everything."""
        self._clients.close()
        self._pump.abandon()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listening is not None:
            self._listening.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def obey(self, command: control.Command) -> control.Report | None:
        """Carry out one command; the report it is answered with, if it is answered."""
        match command:
            case control.Credit():
                self._pump.credit(command.events)
            case control.Closed():
                await self._ready_to_send()
                self._clients.age_ms = None
                self._pump.closed(command.window_events)
            case control.Pause():
                await self._pump.pause()
                return self._report("pause")
            case control.Fill():
                await self._ready_to_send()
                await self._pump.fill(command.full_windows, command.window_events)
                return self._report("fill")
            case control.Open():
                await self._ready_to_send()
                self._clients.reset()
                done = self._pump.open(command.events_per_second, command.seconds)
                self._clients.age_ms = self._pump.age_ms
                await done
                return self._report("open")
            case control.Connect():
                symbols = [listing.symbol for listing in self._source.market.listings]
                await self._clients.connect("127.0.0.1", command.port, symbols, command.count, command.quotes)
                return self._report("connect")
            case control.Ask():
                report = self._report("ask")
                if command.reset:
                    self._clients.reset()
                return report
        return None

    def failed(self, command: control.Command, exc: Exception) -> control.Report | None:
        """The report that a command went wrong."""
        tag = type(command).__struct_config__.tag
        report = self._report("ask")
        report.re = tag if tag in ("connect", "fill", "open", "pause") else "ask"  # type: ignore[assignment]
        report.error = f"{tag}: {type(exc).__name__}: {exc}"
        return report

    def subscribed(self, connection: _Connection) -> None:
        """A connection asked for everything the frames hold."""
        self._subscriptions += 1
        self._current = connection
        self._outboxes.append(connection.outbox)
        connection.outbox.set_room(self._pump.room)
        self._pump.attach(connection.outbox)
        self._subscribed.set()

    def acknowledged(self) -> None:
        """A frame of statuses went out that the platform's raw callback sees."""
        self._pump.sent.acks += 1

    def wanted(self, subscriptions: protocol.Subscriptions) -> bool:
        """Whether a connection has asked for everything the frames hold."""
        return subscriptions.wants_all(_TOPICS[self._options.frames.mix])

    async def _ready_to_send(self) -> None:
        await asyncio.wait_for(self._subscribed.wait(), 30)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listening)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            self._spawn(self._serve(_Connection(self, sock)))

    async def _serve(self, connection: _Connection) -> None:
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            if connection is self._current:
                self._current = None
                self._subscribed.clear()
                self._pump.abandon()

    def _spawn(self, coro: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cut_off(self, why: str) -> None:
        self._cut = why
        if self._current is not None:
            self._current.cut()

    def _report(self, re: str) -> control.Report:
        return control.Report(
            re=re,  # type: ignore[arg-type]
            sent=msgspec.structs.replace(self._pump.sent),
            clients=self._clients.figures(),
            connections=self._subscriptions,
            cpu_seconds=time.process_time(),
            cut=self._cut,
            most_waiting_bytes=max((outbox.most_bytes for outbox in self._outboxes), default=0),
            longest_wait_ms=max((outbox.longest_ns for outbox in self._outboxes), default=0) / 1e6,
            lateness=self._pump.lateness.quantiles(),
        )


class _Connection:
    """One connection of a platform: handshake, conversation, and an outbox that the pump fills."""

    def __init__(self, feeder: Feeder, sock: socket.socket) -> None:
        self._feeder, self._sock = feeder, sock
        self._loop = asyncio.get_running_loop()
        self._protocol = ServerProtocol()
        self._subscriptions = protocol.Subscriptions()
        self._authenticated = False
        self._announced = False
        self.outbox = Outbox(sock, self._loop)

    async def run(self) -> None:
        """Converse until either side closes."""
        try:
            while self._protocol.state is not State.CLOSED and self.outbox.error is None:
                data = await self._loop.sock_recv(self._sock, 65_536)
                if data:
                    self._protocol.receive_data(data)
                else:
                    self._protocol.receive_eof()
                for event in self._protocol.events_received():
                    self._handle(event)
                self._flush()
                if not data or self._protocol.close_expected():
                    break
        except OSError:
            pass  # the platform went away; its own figures tell
        finally:
            self.outbox.close()
            self._sock.close()

    def cut(self) -> None:
        """The provider's answer to a slow consumer: close code 1008, whatever waits is lost."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(1008, "slow consumer")
            self.outbox.cut(b"".join(self._protocol.data_to_send()))

    def _handle(self, event: object) -> None:
        if isinstance(event, HttpRequest):
            response = self._protocol.accept(event)
            self._protocol.send_response(response)
            self._flush()
            if response.status_code == 101:
                self._say([protocol.STATUS_CONNECTED])
        elif isinstance(event, WebSocketFrame) and event.opcode is Opcode.TEXT:
            self._request(protocol.parse_request(bytes(event.data)))

    def _request(self, request: protocol.Request | None) -> None:
        if request is None:
            return
        if request.action == "auth":
            self._authenticated = bool(request.params)
            self._say([protocol.STATUS_AUTH_SUCCESS if request.params else protocol.STATUS_AUTH_FAILED])
        elif request.action == "subscribe" and self._authenticated:
            answers = self._subscriptions.subscribe(request.params)
            if answers:
                self._say(answers)
                self._feeder.acknowledged()
            if not self._announced and self._feeder.wanted(self._subscriptions):
                self._announced = True
                self._feeder.subscribed(self)
        elif request.action == "unsubscribe":
            answers = self._subscriptions.unsubscribe(request.params)
            if answers:
                self._say(answers)
                self._feeder.acknowledged()

    def _say(self, statuses: list[tuple[str, str]]) -> None:
        self.outbox.put(text_frame(protocol.status_frame(statuses)), time.monotonic_ns())

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self.outbox.put(data, time.monotonic_ns())
        self.outbox.flush()


async def serve(options: control.FeederOptions) -> None:
    """Run a feeder steered over stdin and stdout until stdin ends or `Quit` comes."""
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    feeder = Feeder(options)
    answering: set[asyncio.Task[None]] = set()

    def say(answer: control.Answer) -> None:
        sys.stdout.buffer.write(control.line(answer))
        sys.stdout.buffer.flush()

    async def answer(command: control.Command) -> None:
        try:
            report = await feeder.obey(command)
        except Exception as exc:  # the bench decides what a failure means; the feeder lives on
            report = feeder.failed(command, exc)
        if report is not None:
            say(report)

    try:
        say(await feeder.start())
        while data := await commands.readline():
            command = control.decode_command(data)
            if isinstance(command, control.Quit):
                break
            if isinstance(command, control.Credit):
                await feeder.obey(command)
                continue
            task = loop.create_task(answer(command))
            answering.add(task)
            task.add_done_callback(answering.discard)
    finally:
        await feeder.stop()


def main() -> None:
    """Entry point of the feeder's process."""
    options = msgspec.json.decode(sys.argv[1], type=control.FeederOptions)
    uvloop.run(serve(options))


if __name__ == "__main__":
    main()
