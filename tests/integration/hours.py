"""Sessions and the market clock by the contract's words, for the reference model; not from the pipeline."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
SESSIONS = ("pre_market", "regular", "after_hours")
FIELD = {"pre_market": "pre_market", "regular": "regular_session", "after_hours": "after_hours"}
AHEAD_MS = 60_000


def session_of(ms: float) -> str | None:
    """The session of a time on a normal day, None where there is none."""
    return _session_of_minute(int(ms // 60_000))


@lru_cache(maxsize=4_096)
def _session_of_minute(minute: int) -> str | None:
    local = datetime.fromtimestamp(minute * 60, UTC).astimezone(NEW_YORK)
    minutes = local.hour * 60 + local.minute
    if 240 <= minutes < 570:
        return "pre_market"
    if 570 <= minutes < 960:
        return "regular"
    return "after_hours" if 960 <= minutes < 1200 else None


class Clock:
    """The newest accepted event time: one far ahead counts once three symbols agree within a minute."""

    def __init__(self) -> None:
        self.now_ms = 0.0
        self._doubted: dict[str, float] = {}  # symbol -> its last time that was too far ahead

    def hear(self, symbol: str, ms: float) -> None:
        """One event."""
        if not self.now_ms or 0 < ms - self.now_ms <= AHEAD_MS:
            self._doubted.clear()
            self.now_ms = ms
        elif ms > self.now_ms:
            self._doubted[symbol] = ms
            agreeing = [other for other in self._doubted.values() if abs(other - ms) <= AHEAD_MS]
            if len(agreeing) >= 3:
                self._doubted.clear()
                self.now_ms = max(agreeing)

    def believes(self, ms: float) -> bool:
        """Whether a time is one that the market may have reached."""
        return ms <= self.now_ms + AHEAD_MS
