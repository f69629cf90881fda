"""Spreads the partitions over the processors: each takes its share, gives what is too much, and no more.

There is nobody who assigns. A processor that holds less than its share (`mdp.cache.members.share`) takes what
is free; one that holds more, because another joined, finishes some and releases them. The control channel
says so at once; without it a timer finds out a second later.

A Redis that came back empty knows no member and no partition: whoever is back first would take all, those too
whose state another has in memory alone. So a partition that such a Redis never saw is left, for as long as a
lease lasts, to who had it last.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from typing import Protocol
from zlib import crc32

import structlog

from mdp.cache.control import Control
from mdp.cache.keys import Keys, partition_name
from mdp.cache.leases import Client, Lease
from mdp.cache.members import Members, share
from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.tasks import begin, end
from mdp.stage import Health

log = structlog.get_logger(__name__)

_BEHIND_SECONDS = 0.02  # after a lease's end: by then Redis has let it go
_REST_SECONDS = 5.0  # before a partition is taken again that could not be worked on
_LEAST_SECONDS = 0.05
_FINISH_SECONDS = 0.9  # for all partitions together when the process stops: it has 2 s, for others, too
_RELEASE_SECONDS = 0.2
_EXISTS = "return redis.call('EXISTS', KEYS[1])"


class Owner(Protocol):
    """Who works on the partitions."""

    async def take(self, partition: int, lease: Lease) -> None:
        """The partition is ours: load what is known of it and begin. Cancelled where it is lost meanwhile.

        Raises:
            Exception: It cannot be worked on; the lease is released and taken again later.
        """

    async def give(self, partition: int) -> None:
        """Finish and keep what was done; then the lease is released. Also after half a `take`."""

    def drop(self, partition: int) -> None:
        """The partition is another's now: stop at once, write nothing."""


class Spread:
    """A stage. Stop it before whoever it works for: `stop` hands everything over.

    Args:
        client: Redis, where leases and members are.
        keys: Names of keys.
        control: Told of who joins, and tells us; started by whoever made it.
        owner: Works on the partitions.
        member: Our id; unique among all processes.
        partitions: How many there are.
        only: A static assignment: these, and only these, whoever else is there.
        seconds, renew_seconds, margin_seconds: Of the leases (`Lease`).
        clock: Monotonic seconds.
    """

    name = "partitions"

    def __init__(
        self,
        client: Client,
        keys: Keys,
        control: Control,
        owner: Owner,
        *,
        member: str,
        partitions: int,
        only: Collection[int] | None = None,
        seconds: float = 3.0,
        renew_seconds: float = 1.0,
        margin_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.member = member
        self.members: list[str] = [member]  # as of the last sign of life
        self._control, self._owner, self._clock = control, owner, clock
        self._client, self._keys = client, keys
        self._seconds, self._renew_seconds = seconds, renew_seconds
        self._partitions, self._only = partitions, None if only is None else frozenset(only)
        self._members = Members(client, keys.members, member, alive_seconds=seconds)
        wanted = range(partitions) if only is None else sorted(self._only or ())
        self.leases = {
            p: Lease(
                client,
                keys,
                partition_name(p),
                member,
                seconds=seconds,
                renew_seconds=renew_seconds,
                margin_seconds=margin_seconds,
                clock=clock,
            )
            for p in wanted
        }
        for p, lease in self.leases.items():
            lease.on_lost.append(lambda reason, p=p: self._lost(p, reason))  # type: ignore[misc]
        # Everybody in an order of their own, and the same one each time: claims rarely meet, and a partition
        # tends to come back to where it was.
        self._order = sorted(self.leases, key=lambda p: crc32(f"{member}:{p}".encode()))
        self._taking: dict[int, asyncio.Task[None]] = {}
        self._giving: dict[int, asyncio.Task[None]] = {}
        self._rest_until: dict[int, float] = {}  # partition -> when it may be tried again
        self._last: set[int] = set()  # partitions that nobody had after us, as far as we know
        self._new_since: dict[int, float] = {}  # partition -> when Redis was first found not to know it
        self._settled = False  # whether we have been through a step: who begins finds partitions nobody had
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    # -- what others may ask ------------------------------------------------------------------------

    @property
    def held(self) -> list[int]:
        """The partitions that are ours now, also those being taken or given."""
        return [p for p, lease in self.leases.items() if lease.epoch]

    @property
    def target(self) -> int:
        """How many we may hold."""
        return len(self.leases) if self._only is not None else share(self._partitions, len(self.members))

    def health(self) -> Health:
        """Good while Redis answers."""
        if self._task is not None and self._task.done():
            return Health(False, "does not run")
        if self._failing:
            return Health(False, "Redis does not answer")
        held = self.held
        busy = f", {len(self._taking)} being taken" if self._taking else ""
        return Health(
            True, f"{len(held)} of {self._partitions} partitions{busy}, {len(self.members)} processors"
        )

    def refused(self, p: int) -> None:
        """A fence knows a newer epoch of a partition than ours: stop, release it. See `Lease.refused`."""
        self._owner.drop(p)
        if self.leases[p].epoch:
            self._rest_until[p] = self._clock() + self._renew_seconds
            self._give(p)

    # -- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Join, and take partitions from now on; returns at once."""
        if self._task is None:
            self._control.listeners.append(self._heard)
            self._task = begin(self._run(), self.name)

    async def stop(self) -> None:
        """Finish and release everything. Safe to call twice, or before `start`.

        What is not finished in time is dropped and released: its next owner goes on from the last checkpoint.
        """
        task, self._task = self._task, None
        if task is None:
            return
        self._control.listeners.remove(self._heard)
        await end(task)
        if self._only is None:
            await self._members.leave()  # first: who hears of a release is to know of the larger share
        renewing = asyncio.create_task(self._keep_renewing())
        try:
            for p in self.held:
                self._give(p)
            if self._giving:
                await asyncio.wait(self._giving.values(), timeout=_FINISH_SECONDS)
            if self._giving:
                await self._let_go(sorted(self._giving))
        finally:
            await end(renewing, *self._taking.values(), *self._giving.values())

    async def _let_go(self, late: list[int]) -> None:
        log.warning("partitions_not_finished", partitions=late, seconds=_FINISH_SECONDS)
        for p in late:
            self._giving[p].cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RELEASE_SECONDS):
                await asyncio.gather(*[self.leases[p].release() for p in late])

    def _heard(self, message: str) -> None:
        if message.startswith("joined "):
            self._wake.set()
            return
        for lease in self.leases.values():
            if not lease.epoch and message == f"released {lease.name}":
                lease.forget_owner()
                self._wake.set()
                return

    async def _run(self) -> None:
        if self._only is None:
            with contextlib.suppress(*REDIS_ERRORS):
                await self._members.sign()
            await self._control.say(f"joined {self.member}")
        while True:
            self._wake.clear()
            began = self._clock()
            await self._step()
            pause = self._pause(began)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _step(self) -> None:
        """Renew what we hold, see who is there, give what is too much, take what is missing."""
        patience = min((lease.left_seconds for lease in self.leases.values() if lease.epoch), default=0.0)
        try:
            async with asyncio.timeout(patience or self._renew_seconds):
                await self._renew()
                if self._only is None:
                    self.members = await self._members.sign()
                await self._claim()
            self._failing, self._settled = False, True
        except REDIS_ERRORS as exc:
            if not self._failing:
                self._failing = True
                log.warning("partitions_redis_failed", error=type(exc).__name__)
            self._new_since.clear()  # another empty Redis begins another wait
        for p, lease in self.leases.items():
            lease.look()
            if not lease.epoch and lease.free_in_seconds:
                self._last.discard(p)
                self._new_since.pop(p, None)
        working = [p for p in self._order if self.leases[p].epoch and p not in self._giving]
        for p in working[self.target :]:
            self._give(p)
        if not self._failing and self._room() <= 0:
            await self._look_at_others()

    async def _look_at_others(self) -> None:
        """Who has enough still has to know what is another's, lest it take an old state of its own for the
        newest one when Redis comes back empty (`Partitions.forget_parked`). Renewals do not wait for it."""
        with contextlib.suppress(*REDIS_ERRORS):
            async with asyncio.timeout(self._renew_seconds / 4):
                for p in self._order:
                    if not self.leases[p].epoch and not self.leases[p].free_in_seconds:
                        await self.leases[p].see()

    def _pause(self, began: float) -> float:
        """Seconds until the next step: renewals are due, or a lease of another may end."""
        due = began + (self._renew_seconds / 4 if self._failing else self._renew_seconds) - self._clock()
        if self._room() > 0:
            ends = [lease.free_in_seconds for lease in self.leases.values() if not lease.epoch]
            soonest = min((end for end in ends if end), default=due)
            due = min(due, soonest + _BEHIND_SECONDS)
        return max(_LEAST_SECONDS, due)

    async def _renew(self) -> None:
        for lease in self.leases.values():
            if lease.epoch:
                await lease.renew()

    async def _keep_renewing(self) -> None:
        while True:
            with contextlib.suppress(*REDIS_ERRORS):
                await self._renew()
            await asyncio.sleep(self._renew_seconds / 2)

    def _room(self) -> int:
        return self.target - sum(1 for p in self.held if p not in self._giving)

    async def _claim(self) -> None:
        """Take what is free, up to our share."""
        now = self._clock()
        for p in self._order:
            if self._room() <= 0:
                return
            lease = self.leases[p]
            if lease.epoch or lease.free_in_seconds or self._rest_until.get(p, 0.0) > now:
                continue
            if self._only is None and p not in self._last and await self._may_be_remembered(p):
                continue
            if await lease.acquire():
                self._last.add(p)
                self._new_since.pop(p, None)
                self._taking[p] = asyncio.create_task(self._take(p, lease), name=f"take-{p}")

    async def _may_be_remembered(self, p: int) -> bool:
        """Whether another may have a partition's state in memory that Redis lost, and may yet come for it."""
        if not self._settled or await self._client.eval(_EXISTS, 1, self._keys.epoch(partition_name(p))):
            self._new_since.pop(p, None)
            return False
        return self._clock() - self._new_since.setdefault(p, self._clock()) < self._seconds

    async def _take(self, p: int, lease: Lease) -> None:
        try:
            await self._owner.take(p, lease)
        except asyncio.CancelledError:
            raise
        except Exception as exc:  # another may be able to, or we ourselves later
            log.error("partition_not_taken", partition=p, retry_seconds=_REST_SECONDS, exc_info=exc)
            self._rest_until[p] = self._clock() + _REST_SECONDS
            self._give(p)
        finally:
            if self._taking.get(p) is asyncio.current_task():
                del self._taking[p]

    def _give(self, p: int) -> None:
        if p not in self._giving:
            self._giving[p] = asyncio.create_task(self._hand_over(p), name=f"give-{p}")

    async def _hand_over(self, p: int) -> None:
        try:
            taking = self._taking.get(p)
            if taking is not None:
                await end(taking)
            try:
                await self._owner.give(p)
            except Exception as exc:  # the successor goes on from the checkpoint before
                log.error("partition_not_finished", partition=p, exc_info=exc)
            self._last.discard(p)
            await self.leases[p].release()
        finally:
            self._giving.pop(p, None)

    def _lost(self, p: int, reason: str) -> None:
        taking = self._taking.get(p)
        if taking is not None and reason != "released":
            taking.cancel()
        self._owner.drop(p)
        self._wake.set()
