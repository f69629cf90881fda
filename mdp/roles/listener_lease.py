"""Which of several listeners is connected, and what it tells the other roles."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from mdp.cache.keys import Keys
from mdp.cache.leases import Lease
from mdp.cache.members import Members
from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.tasks import begin, end
from mdp.listener.announcement import MAX_LEDGER, Announcement, read_announcement
from mdp.listener.massive import MassiveListener
from mdp.stage import Health

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.25
_ANNOUNCE_SECONDS = 1.0
_GOODBYE_SECONDS = 0.5
_KEEP_SECONDS = 86_400  # what was announced, for a successor's gap ledger

# A listener that was frozen past its lease must not write over its successor's word.
_ANNOUNCE = """
local had = redis.call('HGET', KEYS[1], 'epoch')
if had and tonumber(had) > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('EXPIRE', KEYS[1], ARGV[2])
return 1
"""


class ConnectionHolder:
    """Connects where we hold the lease, and disconnects where another may. The last stage to start.

    Args:
        lease: Who may connect.
        listener: The connection.
        members: All listeners.
        taken_over: Told what a predecessor said last, before we connect.
    """

    name = "listener"

    def __init__(
        self,
        lease: Lease,
        listener: MassiveListener,
        members: Members,
        taken_over: Callable[[Announcement], None],
    ) -> None:
        self.members = members
        self.others = 0  # listeners besides us, when Redis was reached last
        self.said: Announcement | None = None  # what a predecessor said last; None: not asked yet
        #: Whether an operator lets it connect.
        self.allowed = True
        self._lease = lease
        self._listener = listener
        self._taken_over = taken_over
        self._holds_on = False  # connected without a lease, because nobody stands by
        self._connected = False
        self._why = ""
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        lease.on_gained.append(self._gained)
        lease.on_lost.append(self._lost)

    async def start(self) -> None:
        """Connect once the lease is ours."""
        self._task = begin(self._run(), "connection-holder")

    async def stop(self) -> None:
        """Close the connection."""
        await end(self._task)
        self._task = None
        await self._listener.stop()

    def health(self) -> Health:
        """Ready is who receives data, or stands by for one who may."""
        if self._lease.epoch or self._holds_on:
            return self._listener.health()
        return Health(True, "stands by: another listener is connected, or none may be yet")

    @property
    def active(self) -> bool:
        """Whether we are the one that is to be connected."""
        return bool(self._lease.epoch) or self._holds_on

    async def restart(self) -> None:
        """Disconnect and connect again, where we are the active one."""
        if self.active:
            await self._listener.restart_feed()

    def changed(self) -> None:
        """Look at once: something changed that decides on the connection."""
        self._wake.set()

    def _gained(self, _epoch: int) -> None:
        self._holds_on = False
        self._wake.set()

    def _lost(self, reason: str) -> None:
        self._why = f"lease {reason}"
        # Whoever took it connects; whom we cannot hear, may.
        self._holds_on = reason == "not renewed" and self.others == 0
        if self._holds_on:
            log.warning("listener_holds_on", reason="Redis does not answer, and nobody stands by")
        self._wake.set()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._settle()
            except Exception as exc:  # a defect: the lease is ours, nobody else connects in our place
                failures += 1
                if failures.bit_count() == 1:  # the 1st, 2nd, 4th, 8th ... time
                    log.error("connection_holder_failed", failures=failures, exc_info=exc)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._wake.wait()

    async def _settle(self) -> None:
        if self._holds_on and self._lease.free_in_seconds:
            self._holds_on = False  # Redis answers again, and another has it
            self._why = "another listener took over"
        wanted = self.active and self.allowed
        if wanted and not self._connected:
            if self.said is None and not self._holds_on:
                return  # the announcer asks
            if self.said is not None:
                try:
                    self._taken_over(self.said)
                except Exception as exc:  # the ledger may lack an entry; there must be a connection
                    log.error("takeover_failed", exc_info=exc)
            await self._listener.start_feed()
            self._connected = True
        elif not wanted and self._connected:
            self._connected = False
            self.said = None
            if self.active:
                await self._listener.stop_feed()
            else:
                await self._listener.stop_feed(self._why, reason="standby")


class Announcer:
    """Once a second: that we are there, and, where we are the active one, how things are.

    Args:
        client: Redis.
        keys: Names.
        lease: Who may speak.
        holder: Is told who else is there, and what a predecessor said.
        say: Makes the announcement.
    """

    name = "listener_announcer"

    def __init__(
        self,
        client: Any,
        keys: Keys,
        lease: Lease,
        holder: ConnectionHolder,
        say: Callable[[], Announcement],
    ) -> None:
        self._client = client
        self._key = keys.listener
        self._lease = lease
        self._holder = holder
        self._say = say
        self._inherited: list[dict[str, Any]] = []
        self._inherited_gaps = 0
        self._task: asyncio.Task[None] | None = None
        self._error = ""
        self._news = False
        self.on_news: Callable[[], Awaitable[None]] | None = None  # gaps changed, and Redis has it
        self._wake = asyncio.Event()
        lease.on_gained.append(lambda _epoch: self._wake.set())

    async def start(self) -> None:
        """Begin to speak."""
        self._task = begin(self._run(), self.name)

    async def stop(self) -> None:
        """Say what we are now, and that we are gone. The connection is closed, the lease still ours."""
        task, self._task = self._task, None
        await end(task)
        if task is not None:
            with contextlib.suppress(*REDIS_ERRORS):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._speak()
                    await self._holder.members.leave()

    def health(self) -> Health:
        """Always good: what is wrong with Redis, its own stage says."""
        return Health(True, self._error or "announces")

    def changed(self) -> None:
        """Speak at once, and say that there is something to hear."""
        self._news = True
        self._wake.set()

    def ledger(self, own: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Ours behind that of those we followed, the newest."""
        return [*self._inherited, *own][-MAX_LEDGER:]

    def follow(self, said: Announcement) -> None:
        """Keep a predecessor's ledger in front of ours. What lasted when it spoke last, ends there."""
        own = self._say()
        if said.id and said.id != own.id:
            mine = {_key(gap) for gap in own.ledger}
            ours = [gap for gap in said.ledger if _key(gap) in mine]  # it followed us once
            self._inherited = [
                gap if gap.get("end_ms") is not None else {**gap, "end_ms": said.ts}
                for gap in said.ledger
                if _key(gap) not in mine
            ]
            self._inherited_gaps = max(0, said.gaps - own.gaps) if ours else said.gaps

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_ANNOUNCE_SECONDS * 3):
                    await self._speak()
                self._error = ""
            except REDIS_ERRORS as error:
                self._error = f"Redis: {type(error).__name__}"
            except Exception as exc:  # a defect of ours must not end it: nobody would know of us
                log.error("announcer_failed", exc_info=exc)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ANNOUNCE_SECONDS):
                    await self._wake.wait()

    async def _speak(self) -> None:
        holder = self._holder
        holder.others = len(await holder.members.sign()) - 1
        if not self._lease.valid():
            return
        if holder.said is None:
            holder.said = read_announcement(await self._client.hgetall(self._key))
            holder.changed()
        said = self._say()
        said.gaps += self._inherited_gaps
        said.ledger = self.ledger(said.ledger)
        news, self._news = self._news, False
        words = [word for field in said.fields().items() for word in field]
        if self._lease.valid():
            await self._client.eval(_ANNOUNCE, 1, self._key, said.epoch, _KEEP_SECONDS, *words)
            if news and self.on_news is not None:
                await self.on_news()


def _key(gap: dict[str, Any]) -> tuple[Any, ...]:
    """What tells an entry of one listener's ledger from those of another's."""
    return gap.get("number"), gap.get("start_ms"), gap.get("reason")
