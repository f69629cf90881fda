"""The WebSocket connection of the official client: tells what the client keeps to itself, reads in bursts.

The client takes one message a `recv()`, in `asyncio.wait_for`: before Python 3.12 that is a task, a timer
and three turns of the loop for each frame, more than to decode ten events. So `recv()` hands over all that
has arrived since the last call, as one list; in raw mode the client passes it on to the callback as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.client import ClientProtocol
from websockets.frames import DATA_OPCODES, Frame, Opcode
from websockets.protocol import Event

#: Frames that may wait between socket and callback before the socket is not read any more, and their bytes.
MAX_QUEUE = 128
MAX_QUEUE_BYTES = 16 * 1024 * 1024

_OPENING = 2  # messages: the greeting, the answer to the authentication

#: What `recv()` gives from the third message on: whole messages as they came, undecoded, one at least.
Burst = list[bytes]


class BurstConnection(ClientConnection):
    """See the module. The first two messages, which the client itself reads, come as `str`, one by one.

    Args:
        protocol: Of the library.
        opened: Called with the connection when the opening handshake has succeeded.
        auth_answered: Called with the second message.
    """

    def __init__(
        self,
        protocol: ClientProtocol,
        opened: Callable[[BurstConnection], None],
        auth_answered: Callable[[bytes], None],
        **options: Any,
    ) -> None:
        super().__init__(protocol, **options)
        self._opened, self._auth_answered = opened, auth_answered
        self._messages = self._received = 0  # of the opening: arrived, and read by the client
        self._burst: Burst = []
        self._bytes = 0
        self._partial = bytearray()  # of a fragmented message; the protocol bounds its size
        self._reader_waits = False
        self._handed = False  # the library holds one message, which is older than the burst
        self._reading = True
        # Shadows the method, so that later messages do not pay for what is asked of the first two.
        self.process_event = self._process_opening  # type: ignore[method-assign]

    async def handshake(self, *args: Any, **options: Any) -> None:
        """Perform the opening handshake and report that it succeeded."""
        await super().handshake(*args, **options)
        self._opened(self)

    def _process_opening(self, event: Event) -> None:
        super().process_event(event)
        if not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
            return
        self._partial += event.data
        if not event.fin:
            return
        message, self._partial = bytes(self._partial), bytearray()
        self._messages += 1
        if self._messages == _OPENING:
            self.process_event = self._process_data  # type: ignore[method-assign]
            self._auth_answered(message)

    def _process_data(self, event: Event) -> None:
        if not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
            super().process_event(event)
            return
        if not event.fin or self._partial:
            self._partial += event.data
            if not event.fin:
                return
            data = bytes(self._partial)
            self._partial = bytearray()
        else:
            data = bytes(event.data)
        if not data:
            return
        if self._reader_waits and not self._handed:
            # The library wakes the reader, and tells it of the end of the connection, too.
            self._handed = True
            super().process_event(Frame(Opcode.TEXT, data))
            return
        self._burst.append(data)
        self._bytes += len(data)
        if (len(self._burst) > MAX_QUEUE or self._bytes > MAX_QUEUE_BYTES) and self._reading:
            self._reading = False
            self.transport.pause_reading()

    async def recv(self, decode: bool | None = None) -> Any:
        """What the class says. Waits for the first message; raises `ConnectionClosed` behind the last."""
        if self._received < _OPENING:
            message = await super().recv(decode)
            self._received += 1
            return message
        burst: Burst = []
        if self._handed or not self._burst:
            self._reader_waits = True
            try:
                burst.append(await super().recv(decode=False))
            finally:
                self._reader_waits = False
            self._handed = False
        # Nothing is awaited from here on: whoever cancels a read loses no message.
        burst += self.rest()
        if not self._reading:
            self._reading = True
            self.transport.resume_reading()
        return burst

    def rest(self) -> Burst:
        """Take what has arrived and was not read, also where the connection is over. Does not wait."""
        rest, self._burst, self._bytes = self._burst, [], 0
        return rest
