"""How long the event loop is held: lag of timers, steps of stages."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import pytest

from mdp.observability.loop_lag import LoopLag, StepTimer, StepTimers
from mdp.observability.metrics import Metrics


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_a_step_that_holds_the_loop_is_seen() -> None:
    """A blocking step shows as lag of about its length, less one interval at most."""
    lag = LoopLag(Metrics())
    await lag.start()
    await asyncio.sleep(0.02)
    time.sleep(0.1)  # noqa: ASYNC251 - blocking is what is measured
    await asyncio.sleep(0.02)
    await lag.stop()

    assert lag.longest_step_ms >= 94
    assert lag.histogram.max >= 0.094
    assert lag.window_max_seconds == lag.longest_step_ms / 1000
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def test_nothing_is_measured_after_stop() -> None:
    """Stop ends the timer, and may be called twice or before start."""
    lag = LoopLag(Metrics())
    await lag.stop()
    await lag.start()
    await lag.start()
    await asyncio.sleep(0.03)
    await lag.stop()
    await lag.stop()
    count = lag.histogram.count
    await asyncio.sleep(0.03)

    assert lag.histogram.count == count > 0


async def test_one_long_step_is_counted_once() -> None:
    """The timers that a long step made late are not counted as as many delays."""
    lag = LoopLag(Metrics())
    await lag.start()
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 - forty intervals
    await asyncio.sleep(0.01)
    await lag.stop()

    slow = lag.histogram.count - dict(lag.histogram.cumulative())["0.1"]
    assert slow == 1


def test_a_timer_that_fires_early_has_no_lag() -> None:
    """Rounding of the loop's clock never gives a negative lag."""
    lag = LoopLag(Metrics())
    lag.record(now=1.0, due=1.1)
    assert lag.histogram.total == 0


async def test_the_window_forgets_and_reset_forgets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest lag of the last seconds is no longer shown when the window has passed."""
    loop = asyncio.get_running_loop()
    lag = LoopLag(Metrics(), window_seconds=10)
    await lag.start()
    await lag.stop()
    clock = FakeClock()
    monkeypatch.setattr(loop, "time", clock)
    lag.record(now=100.0, due=99.5)
    lag.record(now=100.5, due=100.4)
    assert lag.window_max_seconds == pytest.approx(0.5)

    clock.now = 109.9
    assert lag.window_max_seconds == pytest.approx(0.5)
    clock.now = 110.0
    assert lag.window_max_seconds == 0
    assert lag.longest_step_ms == pytest.approx(500)

    lag.reset()
    assert lag.longest_step_ms == 0
    assert lag.histogram.count == 2
    monkeypatch.undo()


async def test_a_loop_held_for_seconds_again_and_again_is_unhealthy() -> None:
    """Once is a process that was stopped, which no supervisor is to restart. Health names the largest lag."""
    lag = LoopLag(Metrics())
    await lag.start()
    await lag.stop()
    assert lag.health().ok
    now = asyncio.get_running_loop().time()
    lag.record(now=now - 20, due=now - 26)
    assert lag.health().ok
    assert "6000.0 ms" in lag.health().detail

    lag.record(now=now, due=now - 5.5)
    assert not lag.health().ok
    assert "6000.0 ms" in lag.health().detail


async def test_the_lag_is_in_the_metrics() -> None:
    """Prometheus sees the histogram and the recent maximum."""
    metrics = Metrics()
    lag = LoopLag(metrics)
    lag.record(now=2.0, due=1.0)
    text = metrics.render().decode()
    assert "mdp_event_loop_lag_seconds_count 1.0" in text
    assert "mdp_event_loop_lag_max_seconds 0.0" in text  # not started: no window


def test_a_step_timer_counts_sums_and_keeps_the_longest() -> None:
    """Two steps: their number, sum and longest; also when a step raises."""
    clock = FakeClock()
    timer = StepTimer(clock=clock)
    with timer:
        clock.now += 0.25
    with suppress(RuntimeError), timer:
        clock.now += 0.5
        raise RuntimeError

    assert (timer.count, timer.total_seconds, timer.max_seconds) == (2, 0.75, 0.5)
    assert timer.histogram.count == 2
    timer.reset_max()
    assert timer.max_seconds == 0


def test_step_timers_are_told_apart_by_stage() -> None:
    """The metrics name the stage, and the longest step of all is found."""
    metrics = Metrics()
    timers = StepTimers(metrics)
    assert timers.longest() == ("", 0.0)
    assert timers.get("decode") is timers.get("decode")
    timers.get("decode").record(0.004)
    timers.get("reference").record(0.002)

    assert timers.longest() == ("decode", 0.004)
    text = metrics.render().decode()
    assert 'mdp_step_duration_seconds_count{stage="reference"} 1.0' in text
    assert 'mdp_step_duration_max_seconds{stage="decode"} 0.004' in text
    timers.reset_max()
    assert timers.longest()[1] == 0
