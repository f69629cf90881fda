"""WebSocket clients of the platform that receive, take a time and forget.

They live in the feeder's process: on two cores that disturbs the platform least, and the time a
frame was due and the time its result arrived are read from one clock.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from mdp.bench import wire
from mdp.bench.figures import Histogram, Quantiles

BOARDS = ("scanners:top_gainers", "scanners:top_gappers", "scanners:top_volume")
_START = b'"start_timestamp":'
_RANK_WITHIN = 2_000  # bytes: every row of a board has a rank, no quote has
_STARTS = re.compile(rb'"start_timestamp":\s*(\d{13})')


class ClientFigures(msgspec.Struct):
    """What all clients together saw since the last reset."""

    clients: int = 0
    messages: int = 0
    bytes: int = 0
    quotes: int = 0  # updates with a newer bar than the one before
    repeats: int = 0  # updates of a quote whose bar was not newer
    boards: int = 0
    closes: int = 0  # connections that ended while they were wanted
    latency: Quantiles = msgspec.field(default_factory=Quantiles)  # due to received, of `quotes`
    board_age: Quantiles = msgspec.field(default_factory=Quantiles)  # newest row of a board, on arrival


class Clients:
    """A group of connections and what they count.

    Args:
        age_ms: Age in ms, now, of something whose market time (epoch ms) is given, or None for what is
            older than the phase; no function at all while market time has no fixed relation to this
            clock (closed loop).
    """

    def __init__(self, age_ms: Callable[[int], float | None] | None = None) -> None:
        self.age_ms = age_ms
        self._open: list[_Connection] = []
        self.reset()

    def reset(self) -> None:
        """Forget what was counted; connections stay."""
        self.messages = self.bytes = self.quotes = self.repeats = self.boards = self.closes = 0
        self.latency = Histogram()
        self.board_age = Histogram()

    async def connect(self, host: str, port: int, symbols: Sequence[str], count: int, quotes: int) -> None:
        """Open `count` connections, each subscribed to the three boards and `quotes` symbols of its own.

        Symbols are dealt out in turn, so every client has its share of the active ones.

        Raises:
            OSError, TimeoutError: The platform does not accept, or does not confirm within 10 s.
        """
        loop = asyncio.get_running_loop()
        for number in range(count):
            mine = symbols[number::count][:quotes]
            feeds = [*BOARDS, *(f"quote:{symbol}" for symbol in mine)]

            def make(feeds: list[str] = feeds, first: bool = number == 0) -> _Connection:
                return _Connection(self, host, port, feeds, samples_boards=first)

            _, connection = await loop.create_connection(make, host, port)
            self._open.append(connection)
            await asyncio.wait_for(connection.subscribed, 10)

    def close(self) -> None:
        """Close all connections; their ends are not counted."""
        for connection in self._open:
            connection.close()
        self._open.clear()

    def figures(self) -> ClientFigures:
        """What was counted since the last reset."""
        return ClientFigures(
            clients=sum(connection.alive for connection in self._open),
            messages=self.messages,
            bytes=self.bytes,
            quotes=self.quotes,
            repeats=self.repeats,
            boards=self.boards,
            closes=self.closes,
            latency=self.latency.quantiles(),
            board_age=self.board_age.quantiles(),
        )


class _Connection(asyncio.Protocol):
    """One client. Only looks for the time in a payload; decoding it would cost more than the feeder has."""

    def __init__(
        self, group: Clients, host: str, port: int, feeds: list[str], *, samples_boards: bool
    ) -> None:
        self._group = group
        self._request = wire.upgrade_request(host, port, "/ws")
        self._feeds = feeds
        self._unconfirmed = len(feeds)
        self._samples_boards = samples_boards
        self._head = b""
        self._upgraded = False
        self._closing = False
        self._reader = wire.FrameReader()
        self._newest: dict[bytes, int] = {}  # `{"symbol":"AAPL"` -> start of its last bar
        self._transport: asyncio.Transport | None = None
        self.alive = False
        self.subscribed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour only
        self.alive = True
        self._transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if not self._closing:
            self._group.closes += 1
        if not self.subscribed.done():
            self.subscribed.set_exception(ConnectionError("a client was closed while subscribing"))

    def data_received(self, data: bytes) -> None:
        if not self._upgraded:
            data = self._upgrade(data)
        for message in self._reader.feed(data):
            if message.opcode == wire.TEXT:
                self._text(message.payload)
            elif message.opcode == wire.PING:
                self._write(wire.masked_frame(wire.PONG, message.payload))
            elif message.opcode == wire.CLOSE:
                self._write(wire.masked_frame(wire.CLOSE, message.payload))

    def close(self) -> None:
        self._closing = True
        if self._transport is not None:
            self._write(wire.masked_frame(wire.CLOSE, b"\x03\xe8"))
            self._transport.close()

    def _upgrade(self, data: bytes) -> bytes:
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            return b""
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise wire.WireError(f"the platform did not upgrade: {head[:100]!r}")
        self._upgraded = True
        for feed in self._feeds:
            request = msgspec.json.encode({"action": "subscribe", "feed": feed})
            self._write(wire.masked_frame(wire.TEXT, request))
        return rest

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _text(self, payload: bytes) -> None:
        group = self._group
        if payload.startswith(b'{"status"'):
            self._confirm(payload)
            return
        group.messages += 1
        group.bytes += len(payload)
        if b'"rank"' in payload[:_RANK_WITHIN]:
            group.boards += 1
            if self._samples_boards and group.age_ms is not None and (starts := _STARTS.findall(payload)):
                _count(group.board_age, group.age_ms(int(max(starts))))
            return
        at = payload.find(_START)
        if at < 0:
            return
        start = int(payload[at + 18 : at + 32].split(b",")[0].strip(b" }"))
        symbol = payload[: payload.find(b",")]
        if start > self._newest.get(symbol, 0):
            self._newest[symbol] = start
            group.quotes += 1
            if group.age_ms is not None:
                _count(group.latency, group.age_ms(start))
        else:
            group.repeats += 1

    def _confirm(self, payload: bytes) -> None:
        if b'"subscribed"' in payload:
            self._unconfirmed -= 1
            if self._unconfirmed == 0 and not self.subscribed.done():
                self.subscribed.set_result(None)
        elif not self.subscribed.done():
            self.subscribed.set_exception(ConnectionError(f"the platform refused: {payload[:200]!r}"))


def _count(histogram: Histogram, ms: float | None) -> None:
    if ms is not None:
        histogram.add(ms)
