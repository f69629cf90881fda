"""Notices that the market's time went back: a simulator or a replay which began again.

No market does that, and its own clock never lags its events by minutes. So where the provider's server
time is well before what the market clock already showed *before* the provider was asked, and its events
are, too, the day is started afresh. (Compared with the clock of now, a replay at full speed would look
like going back: its time runs minutes a second. And the server time alone proves nothing: some test
servers tell a fixed time, or the wall clock's, whatever their events say.)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from mdp.processor.engine import Engine

_REWOUND_MS = 120_000
_ASKING_NS = 2_000_000_000  # a question may have been under way for so long
_LOOKS = 2  # in a row that find early events alone: a single late bar in a quiet market is no proof
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
        self._suspect_ms: float | None = None  # the provider's time, where that is well before the market's
        self._early_looks = 0
        self.rewinds = 0

    def restored(self) -> None:
        """The market clock was just restored: any answer may prove it wrong."""
        self._samples.append((0, self._engine.market.clock.now_ms))

    def look(self, answer: ServerTime | None) -> bool:
        """Compare with the provider's newest answer; returns whether the day was started afresh."""
        clock = self._engine.market.clock
        if answer is not None and answer.fetched_ns != self._judged_ns:
            self._judged_ns = answer.fetched_ns
            before = [ms for at, ms in self._samples if at < answer.fetched_ns - _ASKING_NS]
            said = answer.server_time_ms
            went_back = said is not None and bool(before) and before[-1] - said > _REWOUND_MS
            self._suspect_ms = said if went_back else None
            if not went_back:
                self._early_looks = 0
        rewound = self._suspect_ms is not None and self._events_agree(self._suspect_ms)
        if rewound and self._suspect_ms is not None:
            self._engine.rewind(self._suspect_ms)
            self._samples.clear()
            self._suspect_ms, self._early_looks = None, 0
            self.rewinds += 1
        self._engine.newest_ms = 0
        if clock.now_ms:
            self._samples.append((self._clock(), clock.now_ms))
        return rewound

    def _events_agree(self, said: float) -> bool:
        """Whether all events of the last looks are of the provider's time on, well before the market's."""
        newest = self._engine.newest_ms
        if newest:  # else there were none: neither proof nor disproof
            early = said - _REWOUND_MS <= newest < self._engine.market.clock.now_ms - _REWOUND_MS
            self._early_looks = self._early_looks + 1 if early else 0
        return self._early_looks >= _LOOKS
