"""What a feed can be doing, how it may change, and what is counted of it."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable

import msgspec
import structlog

log = structlog.get_logger(__name__)


class FeedState(enum.Enum):
    """The value is what health, metrics and logs show."""

    IDLE = "idle"  # nobody asked for data, or an operator stopped it
    CONNECTING = "connecting"  # dialling, or waiting for the next attempt
    AUTHENTICATING = "authenticating"  # the socket is open, no authenticated data yet
    LIVE = "live"  # authenticated data arrives
    STALLED = "stalled"  # open but silent while the market is not; about to be restarted
    COOLING_DOWN = "cooling_down"  # another connection holds the key; waiting before the next attempt
    FAILED = "failed"  # retrying cannot help; an operator must change something


#: What may follow what. Going idle is always possible: an operator may stop the feed at any time.
_ALLOWED: dict[FeedState, frozenset[FeedState]] = {
    FeedState.IDLE: frozenset({FeedState.CONNECTING, FeedState.FAILED}),
    FeedState.CONNECTING: frozenset({FeedState.AUTHENTICATING, FeedState.COOLING_DOWN, FeedState.FAILED}),
    FeedState.AUTHENTICATING: frozenset(
        {FeedState.LIVE, FeedState.CONNECTING, FeedState.COOLING_DOWN, FeedState.FAILED}
    ),
    FeedState.LIVE: frozenset(
        {FeedState.STALLED, FeedState.CONNECTING, FeedState.COOLING_DOWN, FeedState.FAILED}
    ),
    FeedState.STALLED: frozenset({FeedState.CONNECTING, FeedState.COOLING_DOWN, FeedState.FAILED}),
    FeedState.COOLING_DOWN: frozenset({FeedState.CONNECTING, FeedState.FAILED}),
    FeedState.FAILED: frozenset({FeedState.CONNECTING}),
}


class StateChange(msgspec.Struct, frozen=True):
    """One step of the machine, as handed to `on_change` callbacks."""

    previous: FeedState
    state: FeedState
    detail: str  # one line for a person, without secrets
    at_ms: int  # wall clock, epoch milliseconds


class StateMachine:
    """The state of one feed and who wants to hear of changes.

    Args:
        wall_ms: Epoch milliseconds of the wall clock.
    """

    def __init__(self, *, wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._wall_ms = wall_ms
        self.state = FeedState.IDLE
        self.detail = "not started"
        self.since_ms = wall_ms()
        self.on_change: list[Callable[[StateChange], None]] = []

    def to(self, state: FeedState, detail: str) -> None:
        """Enter a state, or only renew the detail where the feed is already in it.

        A callback that raises is logged and loses only itself.

        Raises:
            ValueError: The machine has no such step, which is a mistake in the caller.
        """
        self.detail = detail
        previous = self.state
        if state is previous:
            return
        if state is not FeedState.IDLE and state not in _ALLOWED[previous]:
            raise ValueError(f"a feed cannot go from {previous.value} to {state.value}")
        self.state = state
        self.since_ms = self._wall_ms()
        change = StateChange(previous, state, detail, self.since_ms)
        for callback in tuple(self.on_change):
            try:
                callback(change)
            except Exception:
                log.exception("feed_state_callback_failed", state=state.value)


class ListenerCounters(msgspec.Struct):
    """Counted since the process began. Shown in metrics; never reset."""

    attempts: int = 0  # connections tried
    connects: int = 0  # of those, the ones that became live
    disconnects: dict[str, int] = msgspec.field(default_factory=dict)  # reason -> attempts that ended so
    stalls: int = 0
    frames: int = 0  # handed over by the client
    last_frame_ns: int = 0  # monotonic arrival of the newest; 0: none yet
    statuses: dict[str, int] = msgspec.field(default_factory=dict)  # status events by their status
