"""What waits to be sent on one connection, and the provider's rule for slow consumers."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable

_CHUNK_BYTES = 256 * 1024  # handed to the kernel at once


class Outbox:
    """An ordered buffer in front of a non-blocking socket that knows how long its oldest bytes wait.

    Args:
        sock: Connected and non-blocking.
        loop: The loop the outbox lives in.
        room: Called whenever everything has been handed to the kernel after something had to wait.
        clock: Monotonic nanoseconds.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        room: Callable[[], None] = lambda: None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._sock, self._loop, self._room, self._clock = sock, loop, room, clock
        self._waiting: deque[tuple[int, bytes | memoryview]] = deque()  # (due in ns, bytes)
        self._blocked = False
        self.waiting_bytes = 0
        self.most_bytes = 0  # that ever waited here
        self.longest_ns = 0  # that bytes ever waited here
        self.error: OSError | None = None  # the connection is gone; nothing more is sent

    def set_room(self, room: Callable[[], None]) -> None:
        """Call this from now on when everything that had to wait was handed over."""
        self._room = room

    def put(self, data: bytes, due_ns: int) -> None:
        """Queue bytes that were due at a monotonic time. `flush` sends them."""
        self._waiting.append((due_ns, data))
        self.waiting_bytes += len(data)

    @property
    def waited_ns(self) -> int:
        """How long the oldest bytes have been waiting since they were due; 0 where none wait."""
        return self._clock() - self._waiting[0][0] if self._waiting else 0

    def flush(self) -> bool:
        """Hand over as much as the kernel takes. Returns whether everything went."""
        if not self._blocked and self.error is None:
            self._send()
        if self._waiting:
            self.most_bytes = max(self.most_bytes, self.waiting_bytes)
            self.longest_ns = max(self.longest_ns, self.waited_ns)
        return not self._waiting

    def cut(self, last: bytes) -> None:
        """Forget what waits, except the rest of a piece that has begun, and send these bytes as the last."""
        begun: list[bytes | memoryview] = [p for _, p in self._waiting if isinstance(p, memoryview)]
        self._waiting.clear()
        self._waiting.extend((self._clock(), piece) for piece in (*begun, last))
        self.waiting_bytes = sum(len(piece) for _, piece in self._waiting)
        if not self._blocked:
            self._send()

    def close(self) -> None:
        """Forget what waits and stop watching the socket."""
        if self._blocked:
            self._loop.remove_writer(self._sock.fileno())
            self._blocked = False
        self._waiting.clear()
        self.waiting_bytes = 0

    def _send(self) -> None:
        waiting = self._waiting
        while waiting:
            due, piece = waiting[0]
            pieces, size = [piece], len(piece)
            for index in range(1, len(waiting)):
                following = waiting[index][1]
                if size + len(following) > _CHUNK_BYTES:
                    break
                pieces.append(following)
                size += len(following)
            try:
                sent = self._sock.send(b"".join(pieces) if len(pieces) > 1 else piece)
            except BlockingIOError:
                self._block()
                return
            except OSError as exc:
                self.error = exc
                self.close()
                return
            self.waiting_bytes -= sent
            while sent:
                due, piece = waiting[0]
                if sent < len(piece):
                    waiting[0] = (due, memoryview(piece)[sent:])
                    break
                sent -= len(piece)
                waiting.popleft()

    def _block(self) -> None:
        self._blocked = True
        self._loop.add_writer(self._sock.fileno(), self._writable)

    def _writable(self) -> None:
        self._blocked = False
        self._loop.remove_writer(self._sock.fileno())
        if self.flush():
            self._room()
