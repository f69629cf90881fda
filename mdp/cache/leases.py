"""Leases: the right to be the only one who does something, for a few seconds at a time.

Redis keeps who holds a lease and for how long; each acquisition takes a new *epoch*, which is larger than
all before it, and everything that is written under a lease carries it. A lease alone protects nothing: a
process may be frozen between looking at its lease and writing. So whoever writes asks `Lease.valid` (by the
local monotonic clock, with a margin), and the script that writes compares epochs (`FENCE`, `Fence`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Protocol

import structlog

from mdp.cache.control import Control
from mdp.cache.keys import Keys
from mdp.cache.redis_link import REDIS_ERRORS
from mdp.cache.tasks import begin, end
from mdp.stage import Health

log = structlog.get_logger(__name__)

_TRY_SECONDS = 1.0  # between two looks at a lease that somebody else holds, unless it ends sooner
_BEHIND_SECONDS = 0.02  # after a lease's end: by then Redis has let it go

# An epoch is at least Redis's time in ms: one that was restarted empty, or a replica that took over without
# the last writes, must not give out an epoch a second time. Ours in memory (`MemoryBus`) is such a time, too.
_ACQUIRE = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return {'0', redis.call('PTTL', KEYS[1])}
end
local now = redis.call('TIME')
local ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local epoch = redis.call('INCR', KEYS[2])
if epoch < ms then
  epoch = ms
  redis.call('SET', KEYS[2], string.format('%.0f', ms))
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {string.format('%.0f', epoch), tonumber(ARGV[2])}
"""

_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('GET', KEYS[2]) ~= ARGV[3] then
  return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""

_RELEASE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('GET', KEYS[2]) ~= ARGV[2] then
  return 0
end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return 1
"""

#: To be put before a script that writes under a lease: `refused(key, field, epoch)` says whether a newer
#: owner has written there, and notes the epoch where none has. `key` is a hash that belongs to what is
#: written, and must be among the script's KEYS.
FENCE = """
local function refused(key, field, epoch)
  local had = redis.call('HGET', key, field)
  if had and tonumber(had) > tonumber(epoch) then
    return true
  end
  if had ~= epoch then
    redis.call('HSET', key, field, epoch)
  end
  return false
end
"""

_RAISE = FENCE + "if refused(KEYS[1], ARGV[1], ARGV[2]) then return 0 end return 1"


_LEFT = "return redis.call('PTTL', KEYS[1])"


class Client(Protocol):
    """What is needed of `redis.asyncio.Redis` or its cluster."""

    def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any: ...


async def raise_fence(client: Client, key: str, field: str, epoch: int) -> bool:
    """Shut out the owners of lower epochs before anything is read that they might still change.

    Returns:
        Whether this epoch may write; not where a newer one was there first.
    """
    return bool(await client.eval(_RAISE, 1, key, field, str(epoch)))


class Lease:
    """One lease, held or wanted. Use it by hand (`acquire`, `renew`, `release`) or as a stage.

    Args:
        client: Redis.
        keys: Names of keys.
        name: `mdp.cache.keys.PUBLISHER`, `partition_name(p)` ...
        owner: Who we are; unique among all processes, also those before and after us.
        seconds: How long it lasts in Redis without being renewed.
        renew_seconds: Between two renewals.
        margin_seconds: So long before its end it is not `valid` any more: the time for what is under way.
        control: Wakes us when another owner released it; None: only a timer does.
        clock: Monotonic seconds. It goes on while the process is stopped (SIGSTOP).

    Attributes:
        epoch: Of this acquisition; 0 while it is not held.
        on_gained: Called with the epoch.
        on_lost: Called with the reason, once for each `on_gained`: "released", "taken" or "not renewed".
            Nothing may be written under the lease from then on.
        acquisitions, losses: Counters; a release is no loss.
    """

    def __init__(
        self,
        client: Client,
        keys: Keys,
        name: str,
        owner: str,
        *,
        seconds: float = 3.0,
        renew_seconds: float = 1.0,
        margin_seconds: float = 1.0,
        control: Control | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < margin_seconds < seconds - renew_seconds:
            raise ValueError(f"lease {name}: {seconds} s leave no time to renew before the margin")
        self.name = name
        self.owner = owner
        self.epoch = 0
        self.on_gained: list[Callable[[int], None]] = []
        self.on_lost: list[Callable[[str], None]] = []
        self.acquisitions = self.losses = 0
        self._client = client
        self._keys = (keys.lease(name), keys.epoch(name))
        self._channel = keys.control
        self._seconds, self._renew_seconds, self._margin_seconds = seconds, renew_seconds, margin_seconds
        self._control = control
        self._clock = clock
        self._until = 0.0  # valid until then, by our clock
        self._free_at = 0.0  # when another's lease ends at the latest, as Redis said last
        self._forgotten = 0  # how often another said to have released it
        self._failing = False
        self._refused = False
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- by hand ------------------------------------------------------------------------------------

    def valid(self) -> bool:
        """Whether what is written now is written under the lease: ask before each write. Cheap."""
        return self.epoch != 0 and self._clock() < self._until

    @property
    def left_seconds(self) -> float:
        """For how long it will be valid without another renewal; 0 where it is not."""
        return max(0.0, self._until - self._clock()) if self.epoch else 0.0

    @property
    def free_in_seconds(self) -> float:
        """When another's lease ends at the latest, as of the last `acquire`; 0 where nobody holds it."""
        return max(0.0, self._free_at - self._clock())

    async def see(self) -> None:
        """Learn whether another has it, without wanting it: `free_in_seconds` says so afterwards.

        Raises:
            REDIS_ERRORS: Nothing was learnt.
        """
        if not self.epoch:
            forgotten = self._forgotten
            left_ms = int(await self._client.eval(_LEFT, 1, self._keys[0]))
            if forgotten == self._forgotten:  # not released while we asked
                self._free_at = self._clock() + left_ms / 1_000 if left_ms > 0 else 0.0

    def forget_owner(self) -> None:
        """Another says to have released it: try at once."""
        self._forgotten += 1
        self._free_at = 0.0

    async def acquire(self) -> bool:
        """Take it where nobody holds it, or we from a time that we gave up; returns whether it is ours.

        Raises:
            REDIS_ERRORS: Whether it was taken is not known; trying again is right.
        """
        sent, forgotten = self._clock(), self._forgotten
        epoch, left_ms = await self._client.eval(
            _ACQUIRE, 2, *self._keys, self.owner, str(int(self._seconds * 1000))
        )
        if not int(epoch):
            if forgotten == self._forgotten:  # not released while we asked: another connection may be quicker
                self._free_at = self._clock() + int(left_ms) / 1000
            return False
        if self.epoch:  # taken anew: what was held before is over
            self._lose("taken")
        self._until = sent + self._seconds - self._margin_seconds
        self._free_at = 0.0
        self.epoch = int(epoch)
        self.acquisitions += 1
        log.info("lease_gained", lease=self.name, epoch=self.epoch)
        for gained in self.on_gained:
            self._call(gained, self.epoch)
        return self.epoch != 0

    async def renew(self) -> bool:
        """Make it last from now on; returns whether it is still ours.

        Raises:
            REDIS_ERRORS: It was not renewed, as far as we know, and may be tried again while it is `valid`.
        """
        epoch, sent = self.epoch, self._clock()
        if not epoch:
            return False
        kept = await self._client.eval(
            _RENEW, 2, *self._keys, self.owner, str(int(self._seconds * 1000)), str(epoch)
        )
        if self.epoch != epoch:  # given up or taken anew meanwhile
            return self.epoch != 0
        if not kept:
            self._lose("taken")
            return False
        self._until = sent + self._seconds - self._margin_seconds
        return True

    async def release(self) -> None:
        """Give it back, and wake who waits for it. What was to be written must be written already.

        Never raises: it ends by itself where Redis does not hear us.
        """
        if not self.epoch:
            return
        epoch = str(self.epoch)
        self._lose("released")
        with contextlib.suppress(*REDIS_ERRORS):
            await self._client.eval(
                _RELEASE, 2, *self._keys, self.owner, epoch, self._channel, f"released {self.name}"
            )

    def refused(self) -> None:
        """A fence knows a newer epoch than ours: give it back, as a stage, and try for a newer one.

        Mostly another has it by now. But where Redis lost epochs and its clock went back, it is ours and of
        no use: renewed for ever, it would keep everybody from working.
        """
        self._refused = self.epoch != 0
        self._wake.set()

    def look(self) -> None:
        """Say that it is lost where it could not be renewed in time."""
        if self.epoch and not self.valid():
            self._lose("not renewed")

    def _lose(self, reason: str) -> None:
        epoch, self.epoch, self._until = self.epoch, 0, 0.0
        if reason == "released":
            log.info("lease_released", lease=self.name, epoch=epoch)
        else:
            self.losses += 1
            log.warning("lease_lost", lease=self.name, epoch=epoch, reason=reason)
        for lost in self.on_lost:
            self._call(lost, reason)

    def _call(self, told: Callable[[Any], None], word: Any) -> None:
        """A defect of one who is told must not keep it from the others, nor end the renewing."""
        try:
            told(word)
        except Exception as exc:
            log.error("lease_listener_failed", lease=self.name, exc_info=exc)

    # -- as a stage ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Try to get it from now on, and keep it; returns at once."""
        if self._task is None:
            if self._control is not None:
                self._control.listeners.append(self._heard)
            self._task = begin(self._run(), f"lease-{self.name}")

    async def stop(self) -> None:
        """Give it back. Stop first whoever writes under it. Safe to call twice, or before `start`."""
        task, self._task = self._task, None
        if task is not None:
            if self._control is not None:
                self._control.listeners.remove(self._heard)
            await end(task)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._margin_seconds):
                await self.release()

    def health(self) -> Health:
        """Good while Redis answers, whoever holds it."""
        if self._task is not None and self._task.done():
            return Health(False, f"lease {self.name}: does not run")
        if self._failing:
            return Health(False, f"lease {self.name}: Redis does not answer")
        return Health(True, f"holds lease {self.name}" if self.epoch else f"stands by for lease {self.name}")

    def _heard(self, message: str) -> None:
        if not self.epoch and message == f"released {self.name}":
            self.forget_owner()
            self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()  # first: what is heard during the step is not to wait for a timer
            pause = await self._step()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _step(self) -> float:
        """Acquire or renew once; returns seconds until the next time."""
        patience = self.left_seconds or self._renew_seconds
        try:
            async with asyncio.timeout(patience):
                if self._refused:
                    self._refused = False
                    await self.release()
                    return _TRY_SECONDS
                held = await self.renew() if self.epoch else await self.acquire()
            self._failing = False
        except REDIS_ERRORS as exc:
            held = False
            if not self._failing:
                self._failing = True
                log.warning("lease_redis_failed", lease=self.name, error=type(exc).__name__)
        self.look()
        if self.epoch:
            soon = self._renew_seconds if held else self._renew_seconds / 4
            return max(0.0, min(soon, self.left_seconds))
        free = self.free_in_seconds
        return min(_TRY_SECONDS, free + _BEHIND_SECONDS) if free else _TRY_SECONDS / 4
