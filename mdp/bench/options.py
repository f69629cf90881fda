"""What `mdp bench ingest` can be told."""

from __future__ import annotations

from typing import Literal

import msgspec

from mdp.bench.frames import Mix
from mdp.bench.rest import Manner


class IngestOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One field per option of the command; see `mdp bench ingest --help`."""

    mode: Literal["closed", "open"] = "closed"
    mix: Mix = "all"
    events_per_frame: int = 100
    symbols: int = 11_000
    zipf: float = 0.9
    seed: int = 1
    seconds: float = 15.0  # measured
    warmup: float = 5.0  # seconds before that
    rate: str = "100000"  # open loop: events a second, or "1.5x" of the closed-loop throughput measured first
    credit_bytes: int = 8 * 1024 * 1024  # closed loop: sent and not processed, at most; 0: TCP alone decides
    full_windows: int = 0  # symbols that get 1,100 trades before the measurement
    clients: int = 10
    quotes: int = 20  # quote feeds of each client
    rest: Manner = "well"  # how the provider's REST endpoints answer
    json: str = ""  # file to write the result to, as JSON
    compare_symbols: list[int] = msgspec.field(default_factory=list)  # e.g. [1000, 20000]
    suite: bool = False  # the whole table of targets

    @property
    def multiple(self) -> float:
        """The factor of an open loop's rate such as "1.5x"; 0.0 where there is none."""
        return float(self.rate[:-1]) if self.mode == "open" and self.rate.endswith("x") else 0.0

    @property
    def events_per_second(self) -> float:
        """The rate as a number; 0.0 where it is a multiple."""
        return 0.0 if self.rate.endswith("x") else float(self.rate)


def check(options: IngestOptions) -> None:
    """Refuse what cannot be measured.

    Raises:
        ValueError: One line that names the option, what was found and what is allowed.
    """
    ranges = {
        "events_per_frame": (1, 1_000),
        "symbols": (2, 50_000),
        "zipf": (0, 5),
        "seconds": (0.1, 3_600),
        "warmup": (0, 600),
        "credit_bytes": (0, 1 << 32),
        "full_windows": (0, options.symbols),
        "clients": (1, 1_000),
        "quotes": (0, 500),
    }
    for name, (least, most) in ranges.items():
        value = getattr(options, name)
        if not least <= value <= most:
            raise ValueError(f"{name} must be from {least} to {most}, got {value}")
    try:
        rate = float(options.rate.removesuffix("x"))
    except ValueError:
        rate = -1.0
    if not 0 < rate <= 1e7:
        raise ValueError(f'rate must be events per second or a multiple such as "1.5x", got {options.rate!r}')
    for count in options.compare_symbols:
        if not 2 <= count <= 50_000:
            raise ValueError(f"compare_symbols must be from 2 to 50000, got {count}")
