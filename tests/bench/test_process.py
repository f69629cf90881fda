"""The bench's view of processes: memory, the loop's lag, and the feeder it starts."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from mdp.bench import control
from mdp.bench.frames import FrameOptions
from mdp.bench.process import (
    BenchError,
    FeederProcess,
    LagProbe,
    Machine,
    peak_rss_mb,
    rss_mb,
    run_delay_seconds,
)

SMALL = control.FeederOptions(frames=FrameOptions(symbols=20), pool_events=1_000)


def test_memory_is_in_megabytes_and_the_peak_is_not_below() -> None:
    """A block of 50 MB shows as about 50, and stays in the peak when it is gone."""
    before = rss_mb()
    block = b"x" * 50_000_000
    during = rss_mb()
    del block

    assert 45 < during - before < 60
    assert peak_rss_mb() >= during - 5  # the kernel updates it in steps


def test_run_delay_never_falls() -> None:
    """It is a counter of the kernel, 0 where there is none."""
    first = run_delay_seconds()

    assert 0 <= first <= run_delay_seconds()


def test_a_machine_describes_itself() -> None:
    """Figures are worth little without where they were measured."""
    here = Machine.here()

    assert here.cores >= 1
    assert here.python.count(".") == 2
    assert here.date.endswith("+00:00")
    assert here.cpu


async def test_the_probe_sees_a_blocked_loop() -> None:
    """A step that holds the loop for 60 ms is a lag of at least 50, and stays the longest after a restart."""
    probe = LagProbe()
    probe.start()
    await asyncio.sleep(0.02)
    time.sleep(0.06)  # noqa: ASYNC251 (what is measured)
    await asyncio.sleep(0.02)

    assert probe.quantiles().max >= 50
    probe.restart()
    await asyncio.sleep(0.02)
    probe.hold()
    assert probe.longest_ms >= 50
    assert probe.quantiles().count > 0


async def test_the_probe_tells_work_from_waiting_for_a_core() -> None:
    """A turn that computes is all work; one in which somebody else had the core is not."""
    probe = LagProbe()
    probe.start()
    await asyncio.sleep(0.02)
    time.sleep(0.06)  # noqa: ASYNC251 (off the processor, as when the machine gives it away)
    await asyncio.sleep(0.02)
    assert probe.longest_ms >= 50
    assert probe.longest_work_ms < 40
    until = time.thread_time() + 0.06
    while time.thread_time() < until:
        pass
    await asyncio.sleep(0.02)
    probe.hold()
    assert 50 <= probe.longest_work_ms <= probe.longest_ms


async def test_a_held_probe_counts_nothing() -> None:
    """While the bench itself blocks the loop, the platform is not blamed."""
    probe = LagProbe()
    probe.start()
    await asyncio.sleep(0.02)
    probe.hold()
    counted, longest = probe.quantiles().count, probe.longest_ms
    time.sleep(0.08)  # noqa: ASYNC251 (what is not to be measured)
    await asyncio.sleep(0.02)

    assert (probe.quantiles().count, probe.longest_ms) == (counted, longest)
    probe.start()
    await asyncio.sleep(0.03)
    probe.hold()
    assert probe.quantiles().count > counted


async def test_a_feeder_starts_answers_and_ends() -> None:
    """Its process listens on two ports, reports, and is gone after `stop`, which may be called twice."""
    feeder = await FeederProcess.start(SMALL)
    try:
        report = await feeder.ask(control.Ask())
        for port in (feeder.ready.ws_port, feeder.ready.rest_port):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
    finally:
        await feeder.stop()
    await feeder.stop()

    assert report.re == "ask"
    assert report.sent == control.Sent()
    assert report.cpu_seconds > 0
    with pytest.raises(BenchError, match="gone"):
        feeder.tell(control.Ask())


async def test_a_failed_command_raises_with_the_feeders_reason() -> None:
    """The bench stops with one line instead of measuring nothing; the feeder answers on."""
    feeder = await FeederProcess.start(SMALL)
    try:
        with pytest.raises(BenchError, match="feeder: connect: Connection"):
            await feeder.ask(control.Connect(port=1, count=1, quotes=0))
        assert (await feeder.ask(control.Ask())).error == ""
    finally:
        await feeder.stop()


async def test_a_feeder_that_says_nothing_is_given_up() -> None:
    """A question has a deadline; nobody is subscribed, so a fill cannot begin."""
    feeder = await FeederProcess.start(SMALL)
    try:
        with pytest.raises(BenchError, match="said nothing"):
            await feeder.ask(control.Fill(full_windows=0, window_events=0), timeout=0.1)
    finally:
        await feeder.stop()


async def test_a_feeder_that_dies_is_an_error_not_a_wait() -> None:
    """The question that is open when the process ends is answered by an error."""
    feeder = await FeederProcess.start(SMALL)
    asking = asyncio.create_task(feeder.ask(control.Fill(full_windows=0, window_events=0)))
    await asyncio.sleep(0.05)
    os.kill(feeder.pid, signal.SIGKILL)

    with pytest.raises(BenchError, match="ended"):
        await asking
    await feeder.stop()
