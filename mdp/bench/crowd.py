"""A crowd of WebSocket clients in a process of its own: they read, count and drop.

`python -m mdp.bench.crowd` talks to whoever started it in lines of JSON on standard input and output.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import sys
import time
from typing import cast

import msgspec
import uvloop

from mdp.bench.figures import Histogram, Quantiles

_TS = re.compile(rb'"ts":(\d{13})')
_LINE_BYTES = 16 * 1024 * 1024
_AT_ONCE = 100  # connections opened at the same time


class Crowd(msgspec.Struct):
    """Who is to come.

    Attributes:
        port: Of the service, on 127.0.0.1.
        clients: How many.
        subprotocol: `mdp.v2`, or empty.
        says: What each says after the upgrade; client `n` says the texts of `says[n % len(says)]`.
        stalled: So many of them stop reading once they have spoken.
        timed: Take the time from each message's `ts` to its arrival.
    """

    port: int
    clients: int
    subprotocol: str = ""
    says: list[list[str]] = []
    stalled: int = 0
    timed: bool = False


class Count(msgspec.Struct):
    """What all of them saw since the question before."""

    clients: int = 0  # connected now
    bytes: int = 0
    latency: Quantiles = msgspec.field(default_factory=Quantiles)  # ms


def text_frame(text: str) -> bytes:
    """A client's text message (masked with zeros)."""
    data = text.encode()
    if len(data) < 126:
        return bytes((0x81, 0x80 | len(data))) + bytes(4) + data
    return bytes((0x81, 0xFE)) + len(data).to_bytes(2, "big") + bytes(4) + data


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, crowd: _Members, number: int) -> None:
        self._crowd = crowd
        self._number = number
        self._upgraded = False
        self._head = b""
        self._transport: asyncio.Transport | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        order = self._crowd.order
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET /ws HTTP/1.1", f"Host: 127.0.0.1:{order.port}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
        ]  # fmt: skip
        if order.subprotocol:
            lines.append(f"Sec-WebSocket-Protocol: {order.subprotocol}")
        self._transport.write("\r\n".join([*lines, "", ""]).encode())

    def data_received(self, data: bytes) -> None:
        if self._upgraded:
            self._crowd.saw(data)
            return
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 101"):
            self.ready.set_exception(ConnectionError(head.partition(b"\r\n")[0].decode(errors="replace")))
            return
        self._upgraded = True
        self._crowd.connected += 1
        assert self._transport is not None
        order = self._crowd.order
        if order.says:
            for text in order.says[self._number % len(order.says)]:
                self._transport.write(text_frame(text))
        if self._number < order.stalled:
            self._transport.pause_reading()
        self._crowd.saw(rest)
        self.ready.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.connected -= self._upgraded
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(str(exc or "closed before the upgrade")))


class _Members:
    """All connections and what they count together."""

    def __init__(self, order: Crowd) -> None:
        self.order = order
        self.connected = 0
        self._bytes = 0
        self._latency = Histogram()

    def saw(self, data: bytes) -> None:
        """Count what came."""
        self._bytes += len(data)
        if self.order.timed:
            now = time.time() * 1000
            for ts in _TS.findall(data):
                self._latency.add(now - int(ts))

    async def come(self) -> None:
        """Connect all, some at a time."""
        loop = asyncio.get_running_loop()
        for first in range(0, self.order.clients, _AT_ONCE):
            numbers = range(first, min(first + _AT_ONCE, self.order.clients))
            clients = [_Client(self, number) for number in numbers]
            opening = [
                loop.create_connection(lambda c=client: c, "127.0.0.1", self.order.port)  # type: ignore[misc]
                for client in clients
            ]
            await asyncio.gather(*opening)
            await asyncio.gather(*(client.ready for client in clients))

    def count(self) -> Count:
        """What was seen since the last call."""
        count = Count(self.connected, self._bytes, self._latency.quantiles())
        self._bytes, self._latency = 0, Histogram()
        return count


async def _main() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    order = msgspec.json.decode(await reader.readline(), type=Crowd)
    members = _Members(order)
    try:
        await members.come()
    except OSError as error:
        _say({"error": str(error)})
        return
    _say(members.count())
    while await reader.readline():  # until whoever started us is gone
        _say(members.count())


def _say(what: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(what) + b"\n")
    sys.stdout.buffer.flush()


class CrowdProcess:
    """A running crowd, as its starter sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, order: Crowd) -> CrowdProcess:
        """Start it and wait until all are connected.

        Raises:
            ConnectionError: They could not all connect.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mdp.bench.crowd",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        crowd = cls(process)
        try:
            await crowd._ask(msgspec.json.encode(order))
        except BaseException:
            await crowd.stop()
            raise
        return crowd

    async def count(self) -> Count:
        """What they saw since the last call."""
        return await self._ask(b"")

    async def _ask(self, line: bytes) -> Count:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + b"\n")
        answer = await asyncio.wait_for(self._process.stdout.readline(), 120)
        if not answer or b'"error"' in answer:
            raise ConnectionError(f"the crowd of clients failed: {answer.decode(errors='replace').strip()}")
        return msgspec.json.decode(answer, type=Count)

    async def stop(self) -> None:
        """End it."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


if __name__ == "__main__":
    uvloop.run(_main())
