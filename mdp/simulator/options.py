"""What a simulator can be told, and how its text forms (flags, environment) are read."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from .calendar import NEW_YORK

MAX_SPEED = 0.0  # the value of `speed` that stands for "max"


class SimulatorOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Settings of one simulator; the defaults make the demo."""

    host: str = "127.0.0.1"
    port: int = 0  # 0 picks a free one, see Simulator.port
    seed: int = 1  # same seed, same market
    symbols: int = 11_000
    events_per_second: float = 5_000.0  # per second of wall time, averaged over regular hours
    speed: float = 1.0  # market seconds per second; 0: as fast as the readers take it
    start: str = "2026-03-10T09:25:00"  # New York wall time (a Tuesday)
    replay: str = ""  # a recording (NAME.frames.gz) instead of the simulated market
    replay_wait: bool = True  # begin the replay at the first subscription
    replay_end: Literal["stay", "close", "loop"] = "stay"  # after the last frame
    api_keys: list[str] = msgspec.field(default_factory=list)  # empty: any key that is not empty
    not_authorized: list[str] = msgspec.field(default_factory=list)  # topics the plan lacks, e.g. "LULD"
    second_connection: Literal["allow", "reject", "evict"] = "allow"  # of one key to one market
    auth_timeout_seconds: float = 10.0
    events_per_frame: int = 100
    slow_consumer_bytes: int = 64 * 1024 * 1024  # waiting for one reader before it is cut
    slow_consumer_seconds: float = 10.0
    faults: dict[str, float] = msgspec.field(default_factory=dict)  # name to value, see faults.py

    def __repr__(self) -> str:
        """All settings, with the number of keys instead of the keys."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__ if name != "api_keys"}
        shown["api_keys"] = f"<{len(self.api_keys)} keys>"
        return f"SimulatorOptions({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


def parse_speed(text: str) -> float:
    """`max` or a positive number, as the `speed` of the options.

    Raises:
        ValueError: Anything else.
    """
    if text == "max":
        return MAX_SPEED
    try:
        speed = float(text)
    except ValueError:
        speed = -1.0
    if not 0 < speed < 1e6:
        raise ValueError(f"speed must be 'max' or a number above 0, got {text!r}")
    return speed


def parse_start(text: str) -> int:
    """A New York wall time (`2026-03-10T09:25:00`), or one with an offset, as epoch milliseconds.

    Raises:
        ValueError: Not an ISO date and time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"start must look like 2026-03-10T09:25:00, got {text!r}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=NEW_YORK)
    return round(moment.timestamp() * 1000)


def check(options: SimulatorOptions) -> None:
    """Refuse impossible settings before anything is started.

    Raises:
        ValueError: One line that names the setting, what was found and what is allowed.
    """
    ranges = {
        "port": (0, 65_535),
        "symbols": (1, 50_000),
        "events_per_second": (1, 2_000_000),
        "speed": (0, 1_000_000),
        "auth_timeout_seconds": (0.01, 3_600),
        "events_per_frame": (1, 10_000),
        "slow_consumer_bytes": (1, 1 << 32),
        "slow_consumer_seconds": (0.01, 3_600),
    }
    for name, (least, most) in ranges.items():
        value = getattr(options, name)
        if not least <= value <= most:
            raise ValueError(f"{name} must be from {least} to {most}, got {value}")
    parse_start(options.start)
