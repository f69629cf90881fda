"""Who gets which events: frames are encoded once for all who want the same."""

from __future__ import annotations

import asyncio
from collections import Counter

from .connection import Connection
from .faults import MALFORMED, TRUNCATED, Events, Faults
from .recording import count_events, split_events


class Hub:
    """The open connections, and the way of data to them."""

    def __init__(self, faults: Faults, events_per_frame: int) -> None:
        self.connections: dict[int, Connection] = {}  # by number, open ones
        self.sent: Counter[str] = Counter()  # events handed to sockets by `ev`, over all connections
        self._faults = faults
        self._events_per_frame = events_per_frame
        self._subscribed = asyncio.Event()

    def live(self) -> list[Connection]:
        """Connections that have subscribed to something."""
        return [connection for connection in self.connections.values() if connection.live]

    def wake(self) -> None:
        """A connection has subscribed for the first time."""
        self._subscribed.set()

    @property
    def paused(self) -> bool:
        """Whether the simulated market is to stand still."""
        return self._faults.paused

    @property
    def corrupting(self) -> bool:
        """Whether faults are to be put into the data."""
        return self._faults.in_data

    async def subscribed(self) -> None:
        """Wait until somebody has subscribed."""
        while not self.live():
            self._subscribed.clear()
            await self._subscribed.wait()

    async def room(self, limit_bytes: int) -> None:
        """Wait until at most that much waits for any reader."""
        for connection in list(self.connections.values()):
            while connection.waiting_bytes > limit_bytes and not connection.closing:
                connection.room.clear()
                await connection.room.wait()

    async def flushed(self) -> None:
        """Wait until nothing waits for any reader."""
        await self.room(0)

    def _readers(self) -> dict[frozenset[str], list[Connection]]:
        """Connections that get data now, those with the same subscriptions together."""
        readers: dict[frozenset[str], list[Connection]] = {}
        if not self._faults.stall_seconds:
            for connection in self.live():
                readers.setdefault(connection.subscriptions.key, []).append(connection)
        return readers

    def publish(self, events: Events) -> None:
        """Send events, in order, to those who subscribed to them."""
        self._deliver(self._faults.corrupt(events) if self._faults.in_data else events)

    def _deliver(self, events: Events) -> None:
        readers = self._readers() if events else {}
        if not readers:
            return
        topics = {event[0] for event in events}
        whole: list[tuple[bytes, Counter[str]]] | None = None
        for group in readers.values():
            subscriptions = group[0].subscriptions
            if subscriptions.wants_all(topics):
                frames = whole = whole or self._frames(events)
            else:
                frames = self._frames([one for one in events if subscriptions.wants(one[0], one[1])])
            for payload, counts in frames:
                for connection in group:
                    connection.put(payload, counts)

    def _frames(self, events: Events) -> list[tuple[bytes, Counter[str]]]:
        size = self._events_per_frame
        frames: list[tuple[bytes, Counter[str]]] = []
        cut = [text for topic, _, text in events if topic == TRUNCATED]
        if cut:
            events = [event for event in events if event[0] != TRUNCATED]
        for i in range(0, len(events), size):
            part = events[i : i + size]
            payload = f"[{','.join([event[2] for event in part])}]".encode()
            frames.append((payload, Counter([event[0] for event in part])))
        frames += [(f"[{text}".encode(), Counter({MALFORMED: 1})) for text in cut]
        return frames

    def publish_frame(self, payload: bytes) -> None:
        """Send a recorded frame: as it is to those who want all of it, else what they want of it."""
        readers = self._readers()
        if not readers:
            return
        counts = count_events(payload)
        events: Events | None = None
        for group in readers.values():
            if group[0].subscriptions.wants_all(counts):
                for connection in group:
                    connection.put(payload, counts)
                continue
            if events is None:
                events = split_events(payload)
            wants = group[0].subscriptions.wants
            for part, part_counts in self._frames([one for one in events if wants(one[0], one[1])]):
                for connection in group:
                    connection.put(part, part_counts)

    def release_late(self) -> None:
        """Send the late bars still held back; when no further data will come."""
        self._deliver(self._faults.release())
