"""The cases of the matrix: what happens to whom, and what may come of it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable

import msgspec
import redis

from tests.failures.cluster import Role
from tests.failures.stage import Outcome, Stage

_STOP_SECONDS = 15.0
_GONE_SECONDS = 30.0
_KILL, _TERM, _STOP, _CONT = signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGCONT
_MORE_MB = 150.0  # what a process may grow by while something is wrong

Act = Callable[[Stage], Awaitable[None]]


class Case(msgspec.Struct, kw_only=True, frozen=True):
    """One line of the table."""

    name: str
    act: Act
    kind: str = "plain"  # of the stage
    gap_s: float | None = None  # the longest silence allowed of boards and quotes
    fresh_s: float | None = None  # from the return to the first new board
    lossless: bool = False  # every event is processed, every alert seen
    exact: bool = True  # every event is accounted for; not where counters died with a process
    connections: int = 0  # to the provider that may be opened

    def problems(self, outcome: Outcome) -> list[str]:
        """What should not be, in words."""
        found = [outcome.failed] if outcome.failed else []
        found += [f"{count} x {name}" for name, count in outcome.faults.items()]
        if outcome.false:
            found.append(f"{outcome.false} false alerts")
        silence = max(outcome.boards_s, outcome.quotes_s)
        if self.gap_s is not None and silence > self.gap_s:
            found.append(f"silence of {silence:.1f} s, allowed {self.gap_s:g} s")
        if self.fresh_s is not None and (outcome.fresh_s is None or outcome.fresh_s > self.fresh_s):
            found.append(f"first new board after {outcome.fresh_s} s, allowed {self.fresh_s:g} s")
        if self.lossless and outcome.missing:
            found.append(f"{outcome.missing} alerts missing")
        elif outcome.uncovered:
            found.append(f"{outcome.uncovered} alerts missing that no gap covers")
        if outcome.unknown < 0 or (self.exact and outcome.unknown):
            found.append(f"{outcome.unknown} events unaccounted for")
        if outcome.connections > self.connections:
            found.append(f"{outcome.connections} connections to the provider")
        for process, (before, most, _) in outcome.rss_mb.items():
            if before and most - before > _MORE_MB:
                found.append(f"{process} grew by {most - before:.0f} MB")
        return found


# --- whom ---


async def _role(stage: Stage, who: str) -> Role:
    if who == "listener":
        return await stage.cluster.listener()
    publisher = await stage.cluster.publisher()
    if who == "publisher":
        return publisher
    if who == "processor":  # the one that does not publish
        return next(role for role in stage.cluster.of("processor") if role is not publisher)
    return stage.cluster.roles[f"{who}-a"]


# --- what ---


def _kill(who: str, number: signal.Signals) -> Act:
    async def act(stage: Stage) -> None:
        role = await _role(stage, who)
        role.signal(number)
        await role.gone()
        # Nobody starts it again before the others had their time.
        await asyncio.sleep(12.0 if who == "listener" else 6.0)

    return act


def _freeze(who: str, seconds: float = _STOP_SECONDS) -> Act:
    async def act(stage: Stage) -> None:
        role = await _role(stage, who)
        role.signal(_STOP)
        await asyncio.sleep(seconds)
        role.signal(_CONT)
        stage.back()
        await asyncio.sleep(3.0)

    return act


async def _nothing(_stage: Stage) -> None:
    await asyncio.sleep(10.0)


async def _redis_restarts(stage: Stage) -> None:
    await asyncio.to_thread(stage.cluster.redis.restart)
    stage.back()


async def _redis_gone(stage: Stage) -> None:
    stage.cluster.redis.kill()
    await asyncio.sleep(_GONE_SECONDS)
    await asyncio.to_thread(stage.cluster.redis.start)
    stage.back()


async def _redis_frozen(stage: Stage) -> None:
    stage.cluster.redis.freeze()
    await asyncio.sleep(_STOP_SECONDS)
    stage.cluster.redis.thaw()
    stage.back()


async def _redis_full(stage: Stage) -> None:
    with stage.cluster.redis.client() as client:
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used + 256 * 1024)
        await asyncio.sleep(_STOP_SECONDS)
        client.config_set("maxmemory", 0)
    stage.back()


async def _redis_refuses(stage: Stage) -> None:
    with stage.cluster.redis.client() as client:
        client.config_set("min-replicas-to-write", 1)
        await asyncio.sleep(_STOP_SECONDS)
        client.config_set("min-replicas-to-write", 0)
    stage.back()


async def _redis_failing_over(stage: Stage) -> None:
    """As after a failover: what was the master is a read-only replica for a while."""
    with stage.cluster.redis.client() as client:
        client.replicaof("127.0.0.1", "1")
        await asyncio.sleep(_STOP_SECONDS)
        with contextlib.suppress(redis.RedisError):
            client.replicaof("NO", "ONE")
    stage.back()


def _slow(seconds: float) -> Act:
    async def act(stage: Stage) -> None:
        for proxy in stage.cluster.proxies.values():
            proxy.delay_seconds = seconds
        await asyncio.sleep(_STOP_SECONDS)
        for proxy in stage.cluster.proxies.values():
            proxy.delay_seconds = 0.0
        stage.back()

    return act


def _cut(*whom: str, seconds: float = _STOP_SECONDS) -> Act:
    async def act(stage: Stage) -> None:
        names = [(await _role(stage, who)).name for who in whom] or list(stage.cluster.proxies)
        for name in names:
            stage.cluster.proxies[name].cut()
        await asyncio.sleep(seconds)
        for name in names:
            stage.cluster.proxies[name].mend()
        stage.back()
        await asyncio.sleep(3.0)

    return act


async def _reset(stage: Stage) -> None:
    for _ in range(3):
        for proxy in stage.cluster.proxies.values():
            proxy.abort()
        await asyncio.sleep(2.0)
    stage.back()


def _lossless(name: str, act: Act, *, kind: str = "plain", exact: bool = True, gap_s: float = 12.0) -> Case:
    return Case(name=name, act=act, kind=kind, gap_s=gap_s, lossless=True, exact=exact)


def _another_connects(name: str, act: Act, *, kind: str = "plain", connections: int = 1) -> Case:
    """The connection to the provider moves; what one listener had read and not written is gone with it."""
    return Case(name=name, act=act, kind=kind, gap_s=12.0, exact=False, connections=connections)


def _away(
    name: str,
    act: Act,
    *,
    fresh_s: float = 3.0,
    kind: str = "plain",
    connections: int = 1,
    empty: bool = False,
) -> Case:
    """Redis is away. There is a standby: after 6 s the active listener lets it connect.

    Args:
        empty: It comes back without what nobody had read yet.
    """
    return Case(name=name, act=act, kind=kind, fresh_s=fresh_s, exact=not empty, connections=connections)


CASES: dict[str, Case] = {
    # What loses nothing comes first: from a loss on, highs are known to be uncertain.
    "nothing": _lossless("nothing happens", _nothing, gap_s=6),
    "scanner-kill": _lossless("scanner: kill -9", _kill("scanner", _KILL), gap_s=6),
    "scanner-term": _lossless("scanner: SIGTERM", _kill("scanner", _TERM), gap_s=6),
    "scanner-stop": _lossless("scanner: SIGSTOP 15 s", _freeze("scanner"), gap_s=6),
    "wds-term": _lossless("wds: SIGTERM", _kill("wds", _TERM)),
    "wds-kill": _lossless("wds: kill -9", _kill("wds", _KILL)),
    "wds-stop": _lossless("wds: SIGSTOP 15 s", _freeze("wds")),
    "processor-term": _lossless("processor: SIGTERM", _kill("processor", _TERM)),
    "processor-kill": _lossless("processor: kill -9", _kill("processor", _KILL)),
    "processor-stop": _lossless("processor: SIGSTOP 15 s, past its leases", _freeze("processor")),
    "publisher-term": _lossless("publishing processor: SIGTERM", _kill("publisher", _TERM)),
    "publisher-kill": _lossless("publishing processor: kill -9", _kill("publisher", _KILL)),
    "publisher-stop": _lossless("two publishers: SIGSTOP 6 s, past the lease", _freeze("publisher", 6.0)),
    "publisher-long": _lossless("publishing processor: SIGSTOP 15 s", _freeze("publisher")),
    "redis-pause": _away("Redis: SIGSTOP 15 s", _redis_frozen),
    "redis-refuses": _away("Redis: refuses writes for 15 s (min-replicas-to-write 1)", _redis_refuses),
    "redis-readonly": _away("Redis: a read-only replica for 15 s", _redis_failing_over),
    "redis-full": _away("Redis: out of memory for 15 s (noeviction)", _redis_full, connections=0),
    "redis-restart": _away("Redis: kill -9, started again empty", _redis_restarts, fresh_s=10, empty=True),
    "redis-gone": _away("Redis: gone for 30 s, started again empty", _redis_gone, empty=True),
    "listener-term": _another_connects("listener: SIGTERM", _kill("listener", _TERM)),
    "listener-kill": _another_connects("listener: kill -9", _kill("listener", _KILL)),
    "listener-stop": _another_connects("two listeners: SIGSTOP 15 s, past the lease", _freeze("listener")),
    "net-reset": Case(
        name="network: all connections to Redis reset 3 times", act=_reset, kind="proxied", fresh_s=3
    ),
    "net-slow": Case(name="network: 50 ms slower for 15 s, each way", act=_slow(0.05), kind="proxied"),
    "net-slower": Case(name="network: 400 ms slower for 15 s, each way", act=_slow(0.4), kind="proxied"),
    "net-wds": Case(
        name="network: a wds cut off from Redis for 15 s", act=_cut("wds"), kind="proxied", fresh_s=5
    ),
    "net-processor": _lossless(
        "network: a processor cut off from Redis for 15 s", _cut("processor"), kind="proxied"
    ),
    "net-publisher": _lossless(
        "network: the publishing processor cut off from Redis for 15 s", _cut("publisher"), kind="proxied"
    ),
    "net-listener": _another_connects(
        "network: the listener cut off from Redis for 15 s", _cut("listener"), kind="proxied"
    ),
    "net-all": _away(
        "network: everybody cut off from Redis for 30 s", _cut(seconds=_GONE_SECONDS), kind="proxied"
    ),
    "skew-nothing": _lossless("clocks 2 s apart: nothing else happens", _nothing, kind="skewed", gap_s=6),
    "skew-processor": _lossless(
        "clocks 2 s apart: kill -9 of a processor", _kill("processor", _KILL), kind="skewed"
    ),
    "skew-listener": _another_connects(
        "clocks 2 s apart: kill -9 of the listener", _kill("listener", _KILL), kind="skewed"
    ),
    "one-listener-kill": _another_connects(
        "provider allows one connection: kill -9 of the listener",
        _kill("listener", _KILL),
        kind="one",
        connections=2,
    ),
    "one-listener-stop": Case(
        name="provider allows one connection: SIGSTOP 15 s of the listener",
        act=_freeze("listener"),
        kind="one",
        exact=False,
        connections=5,
    ),
}
