"""When Python's garbage collector runs.

By its defaults it runs whenever 700 more lists exist than before, which is every batch of events, and its
full runs, over hundreds of thousands of objects that live all day, held the loop for 20 to 80 ms. Nothing
on the hot path is in a cycle: reference counts free it. What is (connections that ended, errors with their
traces) is mostly young, and the collector may look at the young: a few milliseconds. At the old it looks
while the market is closed.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from mdp.sessions import CLOSED

_YOUNG = 5_000  # objects: 1 to 3 ms
_MIDDLE = 4  # times as many: 5 to 8 ms
_NEVER = 1_000_000  # of those: the old are `Collector`'s
_PERIOD_SECONDS = 3_600.0


def spare_the_collector() -> None:
    """Set the collector up for the process. To be called before the event loop starts: it takes 40 ms."""
    gc.collect()
    gc.freeze()  # what was imported lives as long as the process
    gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)


class Collector:
    """Collects what is old, at most once an hour, while nobody trades.

    Args:
        session: The market's session now.
        clock: Monotonic seconds.
        collect: What collects.
    """

    def __init__(
        self,
        session: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
        collect: Callable[[], object] = gc.collect,
    ) -> None:
        self._session = session
        self._clock = clock
        self._collect = collect
        self._last = clock()
        self.runs = 0

    def look(self) -> None:
        """Collect if it is time. Holds the loop for some tens of milliseconds then."""
        now = self._clock()
        if now - self._last >= _PERIOD_SECONDS and self._session() == CLOSED:
            self._last = now
            self.runs += 1
            self._collect()
