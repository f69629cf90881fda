"""The life of one WebSocket: the first message, those that follow, the close."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from aiohttp import WSMsgType, web

from mdp.wds import protocol
from mdp.wds.access import Session
from mdp.wds.client import Client, Join, deflated_together, framed_together, frames_joined
from mdp.wds.commands import Commands
from mdp.wds.counters import WdsCounters
from mdp.wds.frames import WINDOW_BITS, pong_frame
from mdp.wds.protocol2 import SUBPROTOCOL
from mdp.wds.turns import LEAVE, Turns

_Hear = Callable[[str | bytes], Awaitable[bool]]  # one message; whether to read on

_INVALID_DATA = 1007  # of the registry of close codes (RFC 6455, section 7.4.1)
_BURST = 32  # messages of one client answered before others get a turn


class Socket(web.WebSocketResponse):
    """aiohttp's reading side; whatever it closes is closed through `Client`, never awaited."""

    client: Client | None = None

    async def close(self, *, code: int = 1000, message: bytes = b"", drain: bool = True) -> bool:
        """Write the close frame once; the connection is cut if it is not taken in time."""
        if self.exception() is not None:  # reading failed: the data cannot be decompressed
            code = _INVALID_DATA
        if self.client is not None:
            self.client.close(code, message.decode(errors="replace"))
        return True

    @property
    def version(self) -> int:
        """Of the client protocol, as negotiated: 1 or 2."""
        return 2 if self.ws_protocol == SUBPROTOCOL else 1

    @property
    def join(self) -> Join:
        """How a client's messages are put together, by what it negotiated."""
        if self.version == 1:
            return frames_joined
        return deflated_together if self.compress == WINDOW_BITS else framed_together


class Conversation:
    """Reads what one client says. What is written goes through its `Client`."""

    def __init__(
        self,
        socket: Socket,
        client: Client,
        session: Session,
        commands: Commands,
        counters: WdsCounters,
        turns: Turns,
    ) -> None:
        """
        Args:
            socket: Upgraded.
            client: Its outgoing side.
            session: What the client may.
            commands: Of the client's version of the protocol.
            counters: Told of messages and failed logins.
            turns: For goodbyes, which many may say at once.
        """
        self._socket = socket
        self._client = client
        self._session = session
        self._commands = commands
        self._counters = counters
        self._turns = turns
        socket.client = client

    async def authenticate(self, seconds: float) -> bool:
        """Wait for the first message; whether it was `auth` with a key or token that is accepted."""
        authorized = False

        async def first(data: str | bytes) -> bool:
            nonlocal authorized
            authorized = await self._commands.begin(self._client, self._session, data)
            return False

        try:
            async with asyncio.timeout(seconds):
                await self._read(first)
        except TimeoutError:
            refusal = protocol.Refusal("unauthorized", "no auth message came in time")
            self._commands.refuse(self._client, refusal)
            self._client.close(protocol.AUTH_TIMEOUT, "send auth as the first message")
        return authorized

    async def converse(self) -> None:
        """Do what messages say until the connection ends."""

        async def obey(data: str | bytes) -> bool:
            await self._commands.obey(self._client, self._session, data)
            return True

        await self._read(obey)

    async def _read(self, hear: _Hear) -> None:
        """Read messages until the connection ends or `hear` answers False."""
        client = self._client
        for number in itertools.count(1):
            message = await self._socket.receive()
            client.heard()
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                self._counters.messages_received += 1
                if not client.closing and not await hear(message.data):
                    return
            elif message.type is WSMsgType.PING:
                client.control(pong_frame(bytes(message.data)))
            elif message.type is not WSMsgType.PONG:  # closed by the peer, by aiohttp or by the network
                if message.type is WSMsgType.CLOSE:
                    await self._turns.take(LEAVE)
                client.close(1000)
                return
            if number % _BURST == 0:
                await asyncio.sleep(0)
            # Not reading on is what slows down a client that asks faster than it takes answers. Polled,
            # because the transport reports room to aiohttp's protocol only.
            while client.busy and not client.gone:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def linger(self) -> None:
        """After our close, read and drop until the peer closes too; `Client.close` bounds the wait.

        A connection closed with unread bytes would be reset, and the peer lose our reason.
        """
        while not self._client.gone:
            message = await self._socket.receive()
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING):
                return
            if message.type is WSMsgType.ERROR:  # at once and for ever: aiohttp reads no further
                await asyncio.sleep(0.02)
