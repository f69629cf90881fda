"""What the bench knows of processes: its own memory, CPU and loop, and the feeder it starts."""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from mdp.bench import control
from mdp.bench.figures import Histogram, Quantiles

_START_SECONDS = 30
_PROBE_SECONDS = 0.005

_A = TypeVar("_A", control.Ready, control.Report)


class BenchError(Exception):
    """The bench could not measure; the message says why in one line."""


class Machine(msgspec.Struct, frozen=True):
    """Where and when figures were measured."""

    date: str
    python: str
    cpu: str
    cores: int

    @classmethod
    def here(cls) -> Machine:
        """This machine, now."""
        return cls(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            python=platform.python_version(),
            cpu=_cpu_model(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        )


def _cpu_model() -> str:
    try:
        for row in Path("/proc/cpuinfo").read_text().splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def rss_mb() -> float:
    """Resident memory of this process now, in MB (10**6 bytes); the peak where /proc is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_rss_mb()
    return pages * resource.getpagesize() / 1e6


def peak_rss_mb() -> float:
    """The largest resident memory this process ever had, in MB (10**6 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def run_delay_seconds() -> float:
    """How long this process's main thread was ready and had to wait for a core; 0 where unknown."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


class LagProbe:
    """How late a timer of 5 ms fires: the bench's own, so that the platform's measure is not its own judge.

    The longest lag since the start is kept through `restart`: it includes the warm-up. While held (the
    bench itself blocks the loop to measure bare decoding) nothing is counted.

    Attributes:
        longest_ms: The longest lag.
        longest_work_ms: The longest that was spent at work: the lag, or the processor time that the loop's
            thread used since the timer before where that is less, because the machine gave the core to
            somebody else. All that one turn of the loop did counts, of whatever stages.
    """

    def __init__(self) -> None:
        self._histogram = Histogram()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._cpu = 0.0
        self.longest_ms = 0.0
        self.longest_work_ms = 0.0

    def start(self) -> None:
        """Measure from now on, on the running loop; also ends a hold."""
        self.hold()
        self._arm(asyncio.get_running_loop())

    def hold(self) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def restart(self) -> None:
        """Begin a new histogram; the longest lag stays."""
        self._histogram = Histogram()

    def quantiles(self) -> Quantiles:
        """Of the present histogram."""
        return self._histogram.quantiles()

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + _PROBE_SECONDS
        self._cpu = time.thread_time()
        self._timer = loop.call_at(self._due, self._fire, loop)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        lag_ms = (loop.time() - self._due) * 1000
        self._histogram.add(lag_ms)
        self.longest_ms = max(self.longest_ms, lag_ms)
        self.longest_work_ms = max(self.longest_work_ms, min(lag_ms, (time.thread_time() - self._cpu) * 1000))
        self._arm(loop)


class FeederProcess:
    """A running feeder. Start it with `start`, end it with `stop`."""

    def __init__(self, process: asyncio.subprocess.Process, ready: control.Ready) -> None:
        self._process = process
        self._asking = asyncio.Lock()
        self.ready = ready

    @classmethod
    async def start(cls, options: control.FeederOptions) -> FeederProcess:
        """Start the process and wait until it listens.

        Raises:
            BenchError: It did not come up.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mdp.bench.feeder",
            msgspec.json.encode(options).decode(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        try:
            ready = await _heard(process, control.Ready, _START_SECONDS)
        except BenchError:
            process.kill()
            await process.wait()
            raise
        return cls(process, ready)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def tell(self, command: control.Command) -> None:
        """Send a command that is not answered."""
        stdin = self._process.stdin
        if stdin is None or stdin.is_closing():
            raise BenchError("the feeder is gone")
        stdin.write(control.line(command))

    async def ask(self, command: control.Command, timeout: float = 60) -> control.Report:
        """Send a command and wait for its report, for at most `timeout` seconds.

        Raises:
            BenchError: The feeder ended, failed at it, or did not answer in time.
        """
        async with self._asking:
            self.tell(command)
            report = await _heard(self._process, control.Report, timeout)
        if report.error:
            raise BenchError(f"feeder: {report.error}")
        return report

    async def stop(self) -> None:
        """End the process; kill it if it does not within 5 s."""
        process = self._process
        if process.returncode is None:
            if process.stdin is not None:
                process.stdin.write(control.line(control.Quit()))
                process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _heard(process: asyncio.subprocess.Process, kind: type[_A], timeout: float) -> _A:
    assert process.stdout is not None
    try:
        data = await asyncio.wait_for(process.stdout.readline(), timeout)
    except TimeoutError:
        raise BenchError(f"the feeder said nothing for {timeout:.0f} s") from None
    if not data:
        raise BenchError("the feeder ended; its error output says why")
    answer = control.decode_answer(data)
    if not isinstance(answer, kind):
        raise BenchError(f"the feeder said {type(answer).__name__} where {kind.__name__} was due")
    return answer
