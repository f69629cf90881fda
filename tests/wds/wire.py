"""A WebSocket client made of bytes: it can say what no library lets through."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import zlib
from typing import Any, NamedTuple, Self

import msgspec

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
CONTINUATION = 0x0

_ZEROS = b"\0\0\0\0"  # a mask that changes nothing (RFC 6455, section 5.3, asks for random ones)


def frame(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """One frame of a client (RFC 6455, section 5.2), allowed or not."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    size = len(payload)
    mask = 0x80 if masked else 0
    if size < 126:
        head = bytes((first, mask | size))
    elif size < 65_536:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    return head + (_ZEROS if masked else b"") + payload


def deflated(payload: bytes) -> bytes:
    """As permessage-deflate sends it (RFC 7692, section 7.2.1)."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Heard(NamedTuple):
    """One frame of the server."""

    opcode: int
    payload: bytes  # decompressed

    def json(self) -> Any:
        """What a text frame holds."""
        return msgspec.json.decode(self.payload)

    @property
    def code(self) -> int:
        """Of a close frame."""
        return int.from_bytes(self.payload[:2], "big")


class Refused(Exception):
    """The upgrade was answered with something else than 101."""


class Wire:
    """A connection whose frames are written by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, *, version: int = 1, compressed: bool = False) -> Self:
        """An upgraded connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(upgrade(version=version, compressed=compressed))
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head.partition(b"\r\n")[0]:
            writer.close()
            raise Refused(head.partition(b"\r\n")[0].decode())
        assert compressed == (b"permessage-deflate" in head), head
        return cls(reader, writer)

    def send(self, data: bytes) -> None:
        """Write, whatever it is."""
        self.writer.write(data)

    def say(self, **message: Any) -> None:
        """Write a JSON message."""
        self.send(frame(TEXT, msgspec.json.encode(message)))

    async def hear(self) -> Heard:
        """The next frame.

        Raises:
            ConnectionError: The connection ended without one.
            TimeoutError: None came in 20 s.
        """
        async with asyncio.timeout(60):
            try:
                first, second = await self.reader.readexactly(2)
                size = second & 0x7F
                if size == 126:
                    size = int.from_bytes(await self.reader.readexactly(2), "big")
                elif size == 127:
                    size = int.from_bytes(await self.reader.readexactly(8), "big")
                payload = await self.reader.readexactly(size)
            except asyncio.IncompleteReadError as error:
                raise ConnectionError(f"the end after {len(error.partial)} bytes") from None
        if first & 0x40:
            payload = zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")  # never a last block
        return Heard(first & 0xF, payload)

    async def close(self) -> None:
        """Leave without a word."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):  # the other side was faster
            await self.writer.wait_closed()


def upgrade(*, version: int = 1, compressed: bool = False, path: str = "/ws") -> bytes:
    """The request that begins a WebSocket."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    if version == 2:
        lines.append("Sec-WebSocket-Protocol: mdp.v2")
    if compressed:
        lines.append("Sec-WebSocket-Extensions: permessage-deflate")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
