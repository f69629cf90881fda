"""What the provider really sent: a connection of its own to the simulator, and one process that reads it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.failures.recorder import EVENT_FEEDS, identity
from tests.processor.processors import OneProcess

KEY = "witness"
_BARS = re.compile(r'"ev":\s*"A",\s*"sym":\s*"([^"]+)"')


class Witness:
    """Subscribes to bars and halts of all symbols; `told` is what one process tells of them."""

    def __init__(self, port: int, topics: str = "A.*,AM.*,LULD.*") -> None:
        self._url = f"ws://127.0.0.1:{port}/stocks"
        self._topics = topics
        self._frames: list[str] = []
        self._socket: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self.one = OneProcess()
        self.bars: dict[str, list[float]] = {}  # symbol -> when its second bars came, monotonic seconds

    async def start(self) -> None:
        """Connect; raises where the simulator refuses."""
        self._socket = await connect(self._url, max_size=2**24, ping_interval=None)
        for request in ({"action": "auth", "params": KEY}, {"action": "subscribe", "params": self._topics}):
            await self._socket.send(json.dumps(request))
        self._task = asyncio.create_task(self._read(self._socket), name="witness")

    async def stop(self) -> None:
        """Close."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._socket is not None:
            await self._socket.close()

    async def _read(self, socket: ClientConnection) -> None:
        async for frame in socket:
            if '"ev":"status"' not in (text := str(frame)):
                self._frames.append(text)
                now = time.monotonic()
                for symbol in _BARS.findall(text):
                    self.bars.setdefault(symbol, []).append(now)

    async def told(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        """Alerts and halts so far, by identity."""
        frames, self._frames = self._frames, []
        for at in range(0, len(frames), 200):
            self.one.send(frames[at : at + 200])
            await asyncio.sleep(0)
        return {identity(event): event for name in EVENT_FEEDS for event in self.one.events[name]}
