"""What `mdp bench queues` can be told."""

from __future__ import annotations

import msgspec

MOST_REPLICAS = 16  # as many as there are partitions


class QueuesOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One field per option of the command; see `mdp bench queues --help`."""

    processors: list[int] = msgspec.field(default_factory=lambda: [1])  # replicas, each a run
    wds: list[int] = msgspec.field(default_factory=lambda: [1])
    seconds: float = 15.0  # of closed loop measured, on each side
    warmup: float = 5.0  # seconds before that
    rate: float = 200_000.0  # events/s offered while Redis's commands are counted; 0: not at all
    latency_rate: float = 50_000.0  # events/s offered while latency is measured; 0: not at all
    open_seconds: float = 10.0  # of each of these two
    events_per_frame: int = 100
    symbols: int = 11_000
    zipf: float = 0.9
    seed: int = 1
    credit_bytes: int = 8 * 1024 * 1024  # closed loop: sent and not processed, at most
    clients: int = 10  # of each data service
    quotes: int = 20  # quote feeds of each client
    cores: int = 2  # for everything together
    alone: bool = True  # measure the one process in memory, too
    json: str = ""  # file to write the results to, as JSON

    def shapes(self) -> list[tuple[int, int]]:
        """Processors and data services of each run: the first of both, then more of the one, of the other."""
        found = [(count, self.wds[0]) for count in self.processors]
        return found + [(self.processors[0], count) for count in self.wds[1:]]


def replicas(text: str) -> list[int]:
    """Numbers such as "1,2,4".

    Raises:
        ValueError: It is something else; one line.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(1 <= count <= MOST_REPLICAS for count in found):
        raise ValueError(f'found "{text}"; allowed: numbers from 1 to {MOST_REPLICAS} such as 1,2,4')
    return list(dict.fromkeys(found))


def check(options: QueuesOptions) -> None:
    """Refuse what cannot be measured.

    Raises:
        ValueError: One line that names the option, what was found and what is allowed.
    """
    ranges: dict[str, tuple[float, float]] = {
        "seconds": (0.1, 3_600),
        "warmup": (0, 600),
        "rate": (0, 1e7),
        "latency_rate": (0, 1e7),
        "open_seconds": (0.1, 3_600),
        "events_per_frame": (1, 1_000),
        "symbols": (2, 50_000),
        "zipf": (0, 5),
        "credit_bytes": (65_536, 1 << 25),  # more would not fit into the listener's queues
        "clients": (1, 1_000),
        "quotes": (0, 500),
        "cores": (1, 1_024),
    }
    for name, (least, most) in ranges.items():
        value = getattr(options, name)
        if not least <= value <= most:
            raise ValueError(f"{name} must be from {least:g} to {most:g}, got {value:g}")
