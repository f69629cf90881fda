"""Notices that the market's time went back: a simulator or a replay which began again.

No market does that, and its own clock never lags its events by minutes. So where the provider's server
time is well before what the market clock already showed *before* the provider was asked, the day is
started afresh. (Compared with the clock of now, a replay at full speed would look like going back: its
time runs minutes a second.)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from mdp.processor.engine import Engine

_REWOUND_MS = 120_000
_ASKING_NS = 2_000_000_000  # a question may have been under way for so long
_SAMPLES = 60


class ServerTime(Protocol):
    """A fresh answer of the provider."""

    @property
    def server_time_ms(self) -> int | None: ...

    @property
    def fetched_ns(self) -> int:
        """Monotonic."""


class RewindWatch:
    """Call `look` about once a second.

    Args:
        engine: Whose market clock is watched, and started afresh.
        clock: Monotonic nanoseconds, the clock of `ServerTime.fetched_ns`.
    """

    def __init__(self, engine: Engine, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._engine = engine
        self._clock = clock
        self._samples: deque[tuple[int, float]] = deque(maxlen=_SAMPLES)  # (monotonic ns, market ms)
        self._judged_ns = 0
        self.rewinds = 0

    def restored(self) -> None:
        """The market clock was just restored: any answer may prove it wrong."""
        self._samples.append((0, self._engine.market.clock.now_ms))

    def look(self, answer: ServerTime | None) -> bool:
        """Compare with the provider's newest answer; returns whether the day was started afresh."""
        rewound = False
        if answer is not None and answer.fetched_ns != self._judged_ns:
            self._judged_ns = answer.fetched_ns
            before = [ms for at, ms in self._samples if at < answer.fetched_ns - _ASKING_NS]
            said = answer.server_time_ms
            if said is not None and before and before[-1] - said > _REWOUND_MS:
                self._engine.rewind(said)
                self._samples.clear()
                self.rewinds += 1
                rewound = True
        if self._engine.market.clock.now_ms:
            self._samples.append((self._clock(), self._engine.market.clock.now_ms))
        return rewound
