"""Who is connected: the clients that the service pings, tells when it stops, and waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from mdp.wds.access import Session
from mdp.wds.client import Client
from mdp.wds.counters import WdsCounters
from mdp.wds.hub import Hub
from mdp.wds.protocol import GOING_AWAY

_FAREWELL = "the service stops; reconnect in a moment"


class Roster:
    """The clients of one service, WebSockets and streams alike.

    Attributes:
        stopping: Whether who comes now is sent away.
    """

    def __init__(self, hub: Hub, counters: WdsCounters) -> None:
        self._hub = hub
        self._counters = counters
        self._sessions: dict[Client, Session] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self.stopping = False

    def __iter__(self) -> Iterator[Client]:
        return iter(self._sessions)

    def __len__(self) -> int:
        return len(self._sessions)

    def sessions(self) -> list[Session]:
        """Those of all clients."""
        return list(self._sessions.values())

    def enter(self, client: Client, session: Session) -> None:
        """Count a client in, whose messages may be written from now on."""
        self._counters.clients_total += 1
        self._sessions[client] = session
        self._empty.clear()
        if self.stopping:
            client.close(GOING_AWAY, _FAREWELL)

    def leave(self, client: Client) -> None:
        """Forget a client and end its connection."""
        self._hub.remove(client)
        del self._sessions[client]
        client.end()
        if not self._sessions:
            self._empty.set()

    async def dismiss(self, seconds: float) -> None:
        """Say goodbye to all clients at once; cut those that have not left within some seconds."""
        for client in list(self._sessions):
            client.close(GOING_AWAY, _FAREWELL)
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            for client in list(self._sessions):
                client.abort()
