"""The few bytes of RFC 6455 that the bench writes and reads itself.

Handshakes and the feeder's incoming messages go through `websockets`; what is here is the path of
every data frame, where a library's cost would be measured along with the platform's.
"""

from __future__ import annotations

import base64
import os
import struct

import msgspec

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
_CONTINUATION = 0x0
_FIN = 0x80


class WireError(Exception):
    """The peer sent what no WebSocket server sends."""


def text_frame(payload: bytes) -> bytes:
    """An unmasked text frame, as a server sends it."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


def masked_frame(opcode: int, payload: bytes) -> bytes:
    """A frame as a client sends it; of at most 65,535 bytes."""
    mask = os.urandom(4)
    size = len(payload)
    head = bytes([_FIN | opcode])
    head += bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    repeated = mask * (size // 4 + 1)
    return head + mask + bytes(a ^ b for a, b in zip(payload, repeated, strict=False))


def upgrade_request(host: str, port: int, path: str) -> bytes:
    """The HTTP request that opens a WebSocket, offering no compression."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


class Message(msgspec.Struct, frozen=True, gc=False):
    """A whole message from a server."""

    opcode: int
    payload: bytes


class FrameReader:
    """Splits a server's byte stream into messages; copies each payload once."""

    def __init__(self) -> None:
        self._rest = b""
        self._parts: list[bytes] = []  # of a fragmented message
        self._opcode = TEXT

    def feed(self, data: bytes) -> list[Message]:
        """The messages completed by these bytes, in order.

        Raises:
            WireError: A masked frame, or a continuation of nothing.
        """
        if self._rest:
            data = self._rest + data
        found: list[Message] = []
        at, end = 0, len(data)
        while end - at >= 2:
            first, size = data[at], data[at + 1]
            if size & 0x80:
                raise WireError("a server must not mask")
            start = at + 2
            if size == 126:
                start = at + 4
                if start > end:
                    break
                size = struct.unpack_from(">H", data, at + 2)[0]
            elif size == 127:
                start = at + 10
                if start > end:
                    break
                size = struct.unpack_from(">Q", data, at + 2)[0]
            if start + size > end:
                break
            at = start + size
            self._take(first, data[start:at], found)
        self._rest = data[at:]
        return found

    def _take(self, first: int, payload: bytes, found: list[Message]) -> None:
        opcode = first & 0x0F
        if opcode >= CLOSE or (first & _FIN and opcode != _CONTINUATION):
            found.append(Message(opcode, payload))
            return
        if opcode == _CONTINUATION and not self._parts:
            raise WireError("a continuation of nothing")
        if opcode != _CONTINUATION:
            self._parts.clear()
            self._opcode = opcode
        self._parts.append(payload)
        if first & _FIN:
            found.append(Message(self._opcode, b"".join(self._parts)))
            self._parts.clear()
