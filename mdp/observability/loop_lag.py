"""How long the event loop is held, and by whom.

Two measures that complete each other. `LoopLag` sees every delay, whatever caused it, because its
timer comes late; it does not know the cause. A `StepTimer` measures exactly what one stage did in one
step, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from types import TracebackType

from mdp.observability.metrics import DURATION_BUCKETS, Histogram, Metrics
from mdp.stage import Health

INTERVAL_SECONDS = 0.005
WINDOW_SECONDS = 60
#: A loop that was held for longer than this, `SICK_TIMES` within the window, is reported as unhealthy.
#: Once is a process or a machine that was stopped: it works again, and a restart would cost more.
SICK_SECONDS = 5.0
SICK_TIMES = 2


class LoopLag:
    """Measures how late a timer fires that is due every 5 ms. A stage; costs about 0.1 % of a core.

    A step that holds the loop for `d` seconds shows as a lag of `d` at most, and of `d` less the
    interval at least; several steps in one turn of the loop show as their sum.
    """

    name = "loop_lag"

    def __init__(
        self,
        metrics: Metrics,
        *,
        interval_seconds: float = INTERVAL_SECONDS,
        window_seconds: int = WINDOW_SECONDS,
    ) -> None:
        self.histogram: Histogram = metrics.histogram(
            "mdp_event_loop_lag_seconds", "How late a timer of 5 ms fired.", DURATION_BUCKETS
        )
        self._interval = interval_seconds
        self._maxima: deque[tuple[int, float]] = deque(maxlen=window_seconds)  # (second, largest lag in it)
        self._window = window_seconds
        self._longest = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        metrics.gauges(
            "mdp_event_loop_lag_max_seconds",
            "Largest lag of the event loop in the last minute.",
            (),
            lambda: {(): self.window_max_seconds},
        )

    async def start(self) -> None:
        """Begin to measure on the running loop. A second start changes nothing."""
        if self._timer is None:
            self._loop = asyncio.get_running_loop()
            self._arm(self._loop)

    async def stop(self) -> None:
        """Stop to measure; what was measured stays readable."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def health(self) -> Health:
        """Unhealthy while the loop was held for seconds, twice or more within the last minute."""
        lags = self._window_lags()
        sick = sum(lag >= SICK_SECONDS for lag in lags) >= SICK_TIMES
        return Health(not sick, f"largest lag in the last minute {max(lags, default=0.0) * 1000:.1f} ms")

    @property
    def longest_step_ms(self) -> float:
        """The longest time for which a due timer could not run, since the start or `reset`; milliseconds."""
        return self._longest * 1000

    @property
    def window_max_seconds(self) -> float:
        """The largest lag in the last `window_seconds`; 0 where nothing was measured."""
        return max(self._window_lags(), default=0.0)

    def _window_lags(self) -> list[float]:
        """The largest lag of each second within the window."""
        if self._loop is None:
            return []
        oldest = int(self._loop.time()) - self._window
        return [lag for second, lag in self._maxima if second > oldest]

    def reset(self) -> None:
        """Forget the longest step and the window, e.g. before a measured run. The histogram goes on."""
        self._longest = 0.0
        self._maxima.clear()

    def record(self, now: float, due: float) -> None:
        """Count a timer that fired at `now` and was due at `due`; both in the loop's seconds."""
        lag = max(now - due, 0.0)
        self.histogram.observe(lag)
        if lag > self._longest:
            self._longest = lag
        second = int(now)
        if not self._maxima or self._maxima[-1][0] != second:
            self._maxima.append((second, lag))
        elif lag > self._maxima[-1][1]:
            self._maxima[-1] = (second, lag)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        # From now, not from the last due time: after a long step one late timer tells it all, and a
        # train of timers that are due in the past would count the same delay many times.
        self._due = loop.time() + self._interval
        self._timer = loop.call_at(self._due, self._fire, loop)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        self.record(loop.time(), self._due)
        self._arm(loop)


class StepTimer:
    """Durations of one stage's steps: `with timer:` around what runs without giving the loop back.

    Nothing inside may await (waiting would be counted as work) or enter the same timer again.

    Attributes:
        count: Steps measured.
        total_seconds: Their sum.
        max_seconds: The longest since the start or `reset_max`.
    """

    __slots__ = ("_clock", "_started", "count", "histogram", "max_seconds", "total_seconds")

    def __init__(
        self, histogram: Histogram | None = None, *, clock: Callable[[], float] = perf_counter
    ) -> None:
        self.histogram = histogram if histogram is not None else Histogram(DURATION_BUCKETS)
        self.count = 0
        self.total_seconds = 0.0
        self.max_seconds = 0.0
        self._clock = clock
        self._started = 0.0

    def __enter__(self) -> StepTimer:
        self._started = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.record(self._clock() - self._started)

    def record(self, seconds: float) -> None:
        """Count a step that was measured otherwise."""
        self.count += 1
        self.total_seconds += seconds
        if seconds > self.max_seconds:
            self.max_seconds = seconds
        self.histogram.observe(seconds)

    def reset_max(self) -> None:
        """Forget the longest step, e.g. before a measured run."""
        self.max_seconds = 0.0


class StepTimers:
    """The step timers of a process by the stage's name, shown in its metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._timers: dict[str, StepTimer] = {}  # stage -> timer
        self._histogram = metrics.histogram(
            "mdp_step_duration_seconds",
            "Time that a stage held the event loop in one step.",
            DURATION_BUCKETS,
            ("stage",),
        )
        metrics.gauges(
            "mdp_step_duration_max_seconds",
            "Longest step of a stage.",
            ("stage",),
            lambda: {(stage,): timer.max_seconds for stage, timer in self._timers.items()},
        )

    def get(self, stage: str) -> StepTimer:
        """The timer of a stage, made at the first call."""
        timer = self._timers.get(stage)
        if timer is None:
            timer = self._timers[stage] = StepTimer(self._histogram.labels(stage))
        return timer

    def longest(self) -> tuple[str, float]:
        """(stage, seconds) of the longest step of all; ("", 0.0) before the first."""
        found = max(self._timers.items(), key=lambda item: item[1].max_seconds, default=None)
        return (found[0], found[1].max_seconds) if found else ("", 0.0)

    def reset_max(self) -> None:
        """Forget the longest steps of all stages."""
        for timer in self._timers.values():
            timer.reset_max()
