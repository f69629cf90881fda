"""One run of `mdp bench queues`: the chain and the one process in turns, then the chain at fixed rates."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from mdp.bench import control
from mdp.bench.bare import measure_bare
from mdp.bench.chain import Alone, Chain, Platform
from mdp.bench.children import Questions
from mdp.bench.figures import middle
from mdp.bench.frames import FrameOptions, FrameSource
from mdp.bench.process import Machine
from mdp.bench.queues_options import QueuesOptions
from mdp.bench.queues_result import Memory, Offered, QueuesResult, Side, Turn
from mdp.bench.usage import Usage, usage

_TURN_SECONDS = 3.0
_RAMP_SECONDS = 0.5  # of each turn, not measured: the window fills
_CREDIT_SECONDS = 0.04  # between two questions how far a platform is: 2 % of a processor
_STILL_SECONDS = 8.0  # without progress, after which nothing more is expected; more than a TTL
_QUIET_CORES = 0.2  # that an idle side may use while the other one is measured
_QUIET_SECONDS = 1.0  # so long it is looked at
_QUIET_WAIT_SECONDS = 20.0  # and waited for at most: all values of a market are written within 12 s
_TICK_SECONDS = 0.3  # what is due to clients has arrived
_SAMPLE_EVENTS = 40_000  # of the frames decoded bare


async def run(options: QueuesOptions, processors: int, wds: int, *, alone: bool) -> QueuesResult:
    """Measure one shape of the chain; `alone`: in turns with the one process in memory.

    Raises:
        BenchError: Something did not come up, or the feeder failed.
    """
    frames = FrameOptions(
        seed=options.seed,
        symbols=options.symbols,
        zipf=options.zipf,
        events_per_frame=options.events_per_frame,
    )
    sample = _sample(frames)
    feeding = control.FeederOptions(frames=frames)
    result = QueuesResult(
        machine=Machine.here(),
        processors=processors,
        wds=wds,
        symbols=options.symbols,
        events_per_frame=options.events_per_frame,
        cores=options.cores,
    )
    async with contextlib.AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mdp-bench-")))
        questions = Questions()
        stack.push_async_callback(questions.close)
        starting = Chain.running(feeding, questions, _folder(home, "chain"), processors=processors, wds=wds)
        chain = await stack.enter_async_context(starting)
        sides = [Load(chain, result.chain, options)]
        if alone:
            result.alone = Side()
            one = await stack.enter_async_context(Alone.running(feeding, questions, _folder(home, "alone")))
            sides.append(Load(one, result.alone, options))
        for side in sides:
            await side.begin()
        result.bare_rate = middle(await _in_turns(options, sides, sample))
        result.closed_lost = await chain.lost()
        if options.rate:
            result.offered = await _offered(chain, sides[0], options.rate, options.open_seconds)
        if options.latency_rate:
            result.moderate = await _offered(chain, sides[0], options.latency_rate, options.open_seconds)
        for side in sides:
            await side.conclude()
        result.counts = await chain.counts()
    return result


def _folder(home: Path, name: str) -> Path:
    folder = home / name
    folder.mkdir()
    return folder


def _sample(frames: FrameOptions) -> list[bytes]:
    """Frames as the feeders send them, to be decoded bare."""
    source = FrameSource(frames, pool_events=_SAMPLE_EVENTS)
    count = max(_SAMPLE_EVENTS // frames.events_per_frame, 1)
    base = control.FeederOptions().base_ms
    return [source.next(base + number).data for number in range(count)]


async def _in_turns(options: QueuesOptions, sides: list[Load], sample: list[bytes]) -> list[float]:
    """Closed loop on each side by turns; returns the rates of decoding alone in between."""
    for side in sides:
        await side.closed(options.warmup, measured=False)
    rates = []
    for _ in range(max(round(options.seconds / _TURN_SECONDS), 1)):
        for side in sides:
            others = [other for other in sides if other is not side]
            await _quiet(others)
            began, before = time.perf_counter(), sum(other.cpu_seconds for other in others)
            await side.closed(min(options.seconds, _TURN_SECONDS))
            used = sum(other.cpu_seconds for other in others) - before
            side.beside(used / (time.perf_counter() - began))
        rates.append(measure_bare(sample).rate)
    return rates


async def _quiet(sides: list[Load]) -> None:
    """Wait until sides that are not fed have done what is due after a load: values go on being written."""
    until = time.monotonic() + _QUIET_WAIT_SECONDS
    while sides and time.monotonic() < until:
        began, before = time.perf_counter(), sum(side.cpu_seconds for side in sides)
        await asyncio.sleep(_QUIET_SECONDS)
        used = sum(side.cpu_seconds for side in sides) - before
        if used / (time.perf_counter() - began) < _QUIET_CORES:
            return


async def _offered(chain: Chain, load: Load, rate: float, seconds: float) -> Offered:
    """A fixed rate: what Redis is asked, what it costs, how late quotes are."""
    await load.warm_up(rate)
    lost = await chain.lost()
    await chain.redis.forget_commands()
    turn, report = await load.open(rate, seconds)
    commands = await chain.redis.commands()
    await load.drained(report.sent.events)
    await asyncio.sleep(_TICK_SECONDS)
    after = await load.platform.feeder.ask(control.Ask())
    return Offered(
        rate=rate,
        turn=turn,
        lost=await chain.lost() - lost,
        commands=commands,
        latency=after.clients.latency,
        lateness=report.lateness,
    )


class _Reading(msgspec.Struct, frozen=True):
    """Where a platform and its feeder stand at a moment."""

    events: int
    wall: float
    used: dict[str, Usage]

    def since(self, before: _Reading) -> Turn:
        """What happened in between."""
        names = self.used.keys() & before.used.keys()
        return Turn(
            events=self.events - before.events,
            wall_seconds=self.wall - before.wall,
            cpu={name: self.used[name].cpu_seconds - before.used[name].cpu_seconds for name in sorted(names)},
            waited={
                name: self.used[name].waited_seconds - before.used[name].waited_seconds
                for name in sorted(names)
            },
        )


class Load:
    """Puts load on one platform and reads what it does with it.

    Args:
        platform: Which one; ready.
        side: Where figures go.
        options: Of the run.
    """

    def __init__(self, platform: Platform, side: Side, options: QueuesOptions) -> None:
        self.platform = platform
        self._side = side
        self._options = options
        per_event = platform.feeder.ready.mean_frame_bytes / options.events_per_frame
        self._window = int(options.credit_bytes / per_event)

    @property
    def cpu_seconds(self) -> float:
        """Of all its processes, feeder included, since they began."""
        children = [child for found in self.platform.children.values() for child in found]
        return (
            sum(child.usage().cpu_seconds for child in children) + usage(self.platform.feeder.pid).cpu_seconds
        )

    def beside(self, cores: float) -> None:
        """The other side, idle, used so many cores during the last turn."""
        self._side.beside.append(cores)

    async def begin(self) -> None:
        """Clients, then each symbol once."""
        await self.platform.connect(self._options.clients, self._options.quotes)
        async with self._credited():
            report = await self.platform.feeder.ask(control.Fill(0, self._window), 300)
            await self.drained(report.sent.events)

    async def closed(self, seconds: float, *, measured: bool = True) -> None:
        """As fast as it is read, for so long; then wait until it is through."""
        feeder = self.platform.feeder
        async with self._credited():
            feeder.tell(control.Closed(self._window))
            await asyncio.sleep(_RAMP_SECONDS)
            before = await self._reading()
            await asyncio.sleep(seconds)
            turn = (await self._reading()).since(before)
            report = await feeder.ask(control.Pause())
            await self.drained(report.sent.events)
        if measured:
            self._side.turns.append(turn)

    async def warm_up(self, rate: float) -> None:
        """A second of a fixed rate, through to its end."""
        report = await self.platform.feeder.ask(control.Open(rate, 1.0), 60)
        await self.drained(report.sent.events)

    async def open(self, rate: float, seconds: float) -> tuple[Turn, control.Report]:
        """So many events a second; does not wait until it is through."""
        before = await self._reading()
        report = await self.platform.feeder.ask(control.Open(rate, seconds), seconds + 60)
        return (await self._reading()).since(before), report

    async def drained(self, sent: int) -> None:
        """Wait until it is through with everything sent, or nothing moves any more."""
        settled, moved = -1, time.monotonic()
        while (now := await self.platform.settled()) < sent:
            if now != settled:
                settled, moved = now, time.monotonic()
            elif time.monotonic() - moved > _STILL_SECONDS:
                return  # the accounting will show what is missing
            await asyncio.sleep(_CREDIT_SECONDS)

    async def conclude(self) -> None:
        """The accounting, and what the clients saw."""
        side, platform = self._side, self.platform
        report = await platform.feeder.ask(control.Ask())
        await self.drained(report.sent.events)
        side.sent, side.clients = report.sent, report.clients
        side.connections, side.cut = report.connections, report.cut
        side.checks = await platform.checks(report.sent)
        side.lost = await platform.lost()
        for child in [child for children in platform.children.values() for child in children]:
            used = child.usage()
            side.memory.append(Memory(child.name, used.rss_mb, max(used.peak_mb, used.rss_mb)))

    async def _reading(self) -> _Reading:
        used = {
            role: _together([child.usage() for child in children])
            for role, children in self.platform.children.items()
        }
        used["feeder"] = usage(self.platform.feeder.pid)
        return _Reading(await self.platform.processed(), time.perf_counter(), used)

    @contextlib.asynccontextmanager
    async def _credited(self) -> AsyncIterator[None]:
        """Tell the feeder how far the platform is meanwhile."""
        task = asyncio.create_task(self._credit())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _credit(self) -> None:
        last = -1
        while True:
            settled = await self.platform.settled()
            if settled != last:
                last = settled
                self.platform.feeder.tell(control.Credit(settled))
            await asyncio.sleep(_CREDIT_SECONDS)


def _together(used: list[Usage]) -> Usage:
    return Usage(
        sum(one.cpu_seconds for one in used),
        sum(one.waited_seconds for one in used),
        sum(one.rss_mb for one in used),
        sum(one.peak_mb for one in used),
    )
