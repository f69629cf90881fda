"""One recording through one process, and through roles as processes around a real Redis; what clients know.

The provider's feed is let through once every process works and reference values are there: what comes over
REST while the market runs depends on how fast a machine is, in one process, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.failures.cluster import PARTITIONS, Cluster
from tests.integration import disturb
from tests.roles.everything import Client, Everything, differences
from tests.tcp_proxy import TcpProxy

_PATIENCE_SECONDS = 120.0  # a limit for something broken, not a measure
_ALIKE_SECONDS = 12.0  # values are written every five seconds, top trades made every five
_STILL_SECONDS = 5.5  # top trades are made every five
_SETTLED_SECONDS = 2.5  # a partition's status is said four times a second, the market's once
_OTHER_ROLES = ("scanner-a", "wds-a", "listener-a")
#: A busy machine may not lose events: that is measured elsewhere. Whoever reads everything may fall behind.
_SETTINGS = {
    "MDP_MDQ_TTL_SECONDS": "60",
    "MDP_WDS_CLIENT_BUFFER_BYTES": str(256 << 20),
    "MDP_WDS_ACTION_BURST": "1000000",
}


class Recording(NamedTuple):
    """What is played, and how fast."""

    path: Path
    speed: str  # market seconds a second, or "max"
    events: int


def played_evenly(path: Path, seconds: float, frames: Sequence[disturb.Frame]) -> Recording:
    """A recording of these frames in their order, from the first one's time to the last one's, evenly.

    Half of a recorded day's events come in a tenth of its time. Evenly, nobody is too late for anything.

    Args:
        path: To be written; ends in `.frames.gz`.
        seconds: For how long it plays.
        frames: Of another recording.
    """
    first, last = frames[0].arrival_ns, frames[-1].arrival_ns
    step = (last - first) / max(1, len(frames) - 1)
    disturb.write(path, [frame._replace(arrival_ns=first + int(n * step)) for n, frame in enumerate(frames)])
    return Recording(path, str((last - first) / 1e9 / seconds), sum(len(json.loads(f.text)) for f in frames))


def with_halts(
    frames: Sequence[disturb.Frame], *, pause_ms: int = 300_000, count: int = 12
) -> list[disturb.Frame]:
    """The frames, and trading pauses among them, of which recordings have none.

    A symbol has no bars meanwhile: how soon they would prove that it trades goes by the wall clock. The last
    two begin with the last bars, and do not end.
    """
    found: list[disturb.Frame] = []
    pauses: list[tuple[str, int, int]] = []
    step = len(frames) // count
    bars = [_bar_of(frames[number * step :]) for number in range(count - 2)]
    bars += [_bar_of(frames[::-1]), _bar_of(frames[::-1], but=_bar_of(frames[::-1])["sym"])]
    for number, bar in enumerate(bars):
        begin_ns = (bar["e"] + 2_000) * 1_000_000
        pauses.append((bar["sym"], begin_ns, begin_ns + pause_ms * 1_000_000))
        low, high = round(bar["c"] * 0.9, 2), round(bar["c"] * 1.1, 2)
        for indicator, after_ms in ((17, 0), (18, pause_ms)):
            if indicator == 17 or number < count - 2:
                # The clock of a feed of minutes is a minute behind, and believes no more than a minute.
                at = bar["s"] + after_ms
                band = {"ev": "LULD", "T": bar["sym"], "h": high, "l": low, "z": 3, "q": number}
                text = json.dumps([{**band, "i": [indicator], "t": at * 1_000_000}])
                found.append(disturb.Frame((bar["e"] + after_ms + 2_000) * 1_000_000, text))
    found += [left for frame in frames if (left := _without_bars(frame, pauses))]
    return sorted(found, key=lambda frame: frame.arrival_ns)


def _without_bars(frame: disturb.Frame, pauses: Sequence[tuple[str, int, int]]) -> disturb.Frame | None:
    """A frame as it is while symbols pause; None: nothing is left of it."""
    pausing = {symbol for symbol, begin_ns, end_ns in pauses if begin_ns <= frame.arrival_ns <= end_ns}
    if not pausing:
        return frame
    events = json.loads(frame.text)
    left = [event for event in events if event["ev"] not in ("A", "AM") or event["sym"] not in pausing]
    if len(left) == len(events):
        return frame
    return disturb.Frame(frame.arrival_ns, json.dumps(left)) if left else None


def _bar_of(frames: Sequence[disturb.Frame], but: str = "") -> Any:
    events = (event for frame in frames for event in json.loads(frame.text))
    return next(event for event in events if event["ev"] in ("A", "AM") and event["sym"] != but)


#: What happens to the processors while the recording runs. Called when half of its events were sent.
Act = Callable[["Played"], Awaitable[None]]


class Played:
    """A platform while a recording goes through it."""

    def __init__(self, cluster: Cluster, client: Client, recording: Recording) -> None:
        self.cluster = cluster
        self.client = client
        self._recording = recording

    async def half_way(self) -> None:
        """Until half of the events were sent."""
        while await self.sent() < self._recording.events / 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    async def sent(self) -> int:
        """Events that the provider has sent."""
        return sum((await self.cluster.stats())["sent"].values())

    async def processed(self) -> int:
        """Events that analyzers have seen, earlier owners of partitions included."""
        roles = [*self.cluster.of("all"), *self.cluster.of("processor")]
        answers = [answer for role in roles if (answer := await role.ask("/queues"))]
        return sum(queue["processed"] for answer in answers for queue in answer["queues"].values())

    async def over(self) -> None:
        """Until every event was processed.

        Raises:
            AssertionError: Some never are.
        """
        until = time.monotonic() + _PATIENCE_SECONDS
        while (done := await self.processed()) != self._recording.events:
            assert time.monotonic() < until, f"{done} of {self._recording.events} processed"
            await asyncio.sleep(0.1)


async def one_process(folder: Path, recording: Recording) -> Everything:
    """What `--role all` says in the end.

    Args:
        folder: For logs; it is made.
        recording: To be played.
    """
    async with _playing(folder, recording, ("all-a",)) as played:
        await played.over()
        before, since = await played.client.everything(), time.monotonic()
        until = since + _PATIENCE_SECONDS
        while time.monotonic() - since < _STILL_SECONDS:
            await asyncio.sleep(0.5)
            now = await played.client.everything()
            if differences(before, now):
                before, since = now, time.monotonic()
            assert time.monotonic() < until, "it never comes to rest"
        await played.client.leave()
        return await played.client.everything()


@contextlib.asynccontextmanager
async def split(
    folder: Path, recording: Recording, processors: int, act: Act | None = None
) -> AsyncIterator[Played]:
    """Roles that have processed all of a recording.

    Args:
        folder: For logs; it is made.
        recording: To be played.
        processors: How many begin.
        act: What happens half-way.
    """
    names = (*(f"processor-{letter}" for letter in "abcdefgh"[:processors]), *_OTHER_ROLES)
    async with _playing(folder, recording, names) as played:
        if act is not None:
            await played.half_way()
            await act(played)
        await played.over()
        yield played


async def compared(played: Played, expected: Everything, *, raw: bool = True) -> tuple[Everything, list[str]]:
    """What roles say in the end, and where that is not what one process said, however long one waits.

    Args:
        played: What has processed all.
        expected: Of one process.
        raw: See `differences`.
    """
    sent = expected._replace(values={})
    until = time.monotonic() + _ALIKE_SECONDS
    while differences(sent, played.client.heard(), raw=raw) and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    await played.client.leave()
    until = time.monotonic() + _ALIKE_SECONDS
    while True:
        found = await played.client.everything()
        unlike = differences(expected, found, raw=raw)
        if not unlike or time.monotonic() > until:
            return found, unlike
        await asyncio.sleep(0.5)


async def kill(played: Played) -> None:
    """`kill -9` of a processor."""
    role = played.cluster.roles["processor-a"]
    role.signal(signal.SIGKILL)
    await role.gone()


async def stop_and_join(played: Played) -> None:
    """SIGTERM for a processor, and another one starts."""
    role = played.cluster.add("processor-z")
    role.start()
    played.cluster.roles["processor-a"].signal(signal.SIGTERM)
    await role.started()


@contextlib.asynccontextmanager
async def _playing(folder: Path, recording: Recording, roles: Sequence[str]) -> AsyncIterator[Played]:
    folder.mkdir()  # noqa: ASYNC240  that takes no time
    simulate = ("--replay", str(recording.path), "--speed", recording.speed)
    cluster = Cluster(folder, roles=tuple(roles), simulate=simulate, settings=_SETTINGS)
    async with TcpProxy(cluster.sim_port) as gate:
        gate.cut()
        cluster.settings["MDP_MASSIVE_FEED"] = f"127.0.0.1:{gate.port}"
        async with cluster:
            for role in cluster.roles.values():
                role.start()
            for role in cluster.roles.values():
                await role.started()
            service = next(role for role in cluster.roles.values() if role.kind in ("all", "wds"))
            async with Client(f"http://127.0.0.1:{service.ports['wds']}") as client:
                await _ready(cluster, client)
                gate.mend()
                yield Played(cluster, client, recording)


async def _ready(cluster: Cluster, client: Client) -> None:
    """All partitions are worked on, somebody publishes, and reference values are there."""
    began = since = time.monotonic()
    while time.monotonic() < since + _SETTLED_SECONDS:
        if problem := await _unready(cluster, client):
            since = time.monotonic()
            assert since < began + _PATIENCE_SECONDS, problem
        await asyncio.sleep(0.1)


async def _unready(cluster: Cluster, client: Client) -> str:
    said = await cluster.processors()
    if said:
        owned = [item for one in said.values() if one for item in one["partitions"].items()]
        live = sorted(int(number) for number, state in owned if state["live"])
        if live != list(range(PARTITIONS)):
            return f"live partitions: {live}"
        if max(len(one["partitions"]) for one in said.values()) > -(-PARTITIONS // len(said)):
            return "partitions are not spread evenly"
    status = await client.get("market:status")
    if status is None or status["warming_up"]:
        return f"market:status: {status}"
    return ""
