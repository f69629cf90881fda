"""What one run of `mdp bench queues` found."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from mdp.bench.accounting import Check
from mdp.bench.chain_counts import ChainCounts
from mdp.bench.clients import ClientFigures
from mdp.bench.control import Sent
from mdp.bench.figures import Quantiles, middle, ratio
from mdp.bench.process import Machine


class Turn(msgspec.Struct, frozen=True):
    """A stretch of load on one side.

    Attributes:
        cpu: Seconds by what used them: `listener`, `redis`, `processor`, `wds` (all replicas of each
            together), or `all`; and `feeder` with its clients.
        waited: Seconds for which they were ready while others had the cores.
    """

    events: int
    wall_seconds: float
    cpu: dict[str, float]
    waited: dict[str, float]

    @property
    def rate(self) -> float:
        """Events per second, end to end."""
        return ratio(self.events, self.wall_seconds)

    @property
    def cores(self) -> float:
        """That all of it used together; where it is less than there are, somebody else had them."""
        return ratio(sum(self.cpu.values()), self.wall_seconds)


class Memory(msgspec.Struct, frozen=True):
    """Of a process, in MB (10**6 bytes)."""

    name: str
    rss_mb: float
    peak_mb: float


class Offered(msgspec.Struct):
    """A stretch at a fixed rate, chain only."""

    rate: float
    turn: Turn
    lost: int = 0  # events, for whatever reason
    commands: dict[str, int] = msgspec.field(default_factory=dict)  # Redis's calls by command
    latency: Quantiles = msgspec.field(default_factory=Quantiles)  # frame due to quote at the client
    lateness: Quantiles = msgspec.field(default_factory=Quantiles)  # of the sender itself

    @property
    def commands_per_1000(self) -> float:
        """Redis's commands for 1,000 events."""
        return ratio(1_000 * sum(self.commands.values()), self.turn.events)


class Side(msgspec.Struct):
    """One platform's run."""

    sent: Sent = msgspec.field(default_factory=Sent)
    checks: list[Check] = msgspec.field(default_factory=list)
    lost: int = 0  # events; in closed loop none should be
    clients: ClientFigures = msgspec.field(default_factory=ClientFigures)
    connections: int = 0
    cut: str = ""
    turns: list[Turn] = msgspec.field(default_factory=list)
    beside: list[float] = msgspec.field(default_factory=list)  # cores that the other side used in each turn
    memory: list[Memory] = msgspec.field(default_factory=list)

    @property
    def rate(self) -> float:
        """Events per second in closed loop: the median of the turns."""
        return middle([turn.rate for turn in self.turns])

    @property
    def cpu_per_million(self) -> dict[str, float]:
        """CPU seconds per million events by what used them, over all turns."""
        return cpu_per_million(self.turns)

    @property
    def exact(self) -> bool:
        """Whether every event is accounted for, on one connection that was never cut."""
        return (
            bool(self.checks) and all(c.exact for c in self.checks) and self.connections == 1 and not self.cut
        )


class QueuesResult(msgspec.Struct):
    """Everything that is printed; `--json` writes it as it is."""

    machine: Machine
    processors: int
    wds: int
    symbols: int
    events_per_frame: int
    cores: int
    chain: Side = msgspec.field(default_factory=Side)
    alone: Side | None = None
    bare_rate: float = 0.0  # events/s of decoding alone, median of the slices between turns
    closed_lost: int = 0  # of the chain, by the end of its closed loop
    offered: Offered | None = None
    moderate: Offered | None = None
    counts: ChainCounts = msgspec.field(default_factory=ChainCounts)

    @property
    def ratio(self) -> float:
        """Through Redis against in one process, each pair of turns by itself: the median."""
        if self.alone is None:
            return 0.0
        pairs = zip(self.chain.turns, self.alone.turns, strict=False)
        return middle([ratio(through.rate, alone.rate) for through, alone in pairs])

    @property
    def cpu_rate(self) -> float:
        """Through Redis, events/s that the CPU time allows: other processes disturb it less."""
        return possible(
            self.chain.cpu_per_million, self.cores, {"processor": self.processors, "wds": self.wds}
        )

    @property
    def alone_cpu_rate(self) -> float:
        """The same of one process."""
        return 0.0 if self.alone is None else possible(self.alone.cpu_per_million, self.cores, {})

    @property
    def exact(self) -> bool:
        """Whether both sides account for every event."""
        return self.chain.exact and (self.alone is None or self.alone.exact)


def cpu_per_million(turns: list[Turn]) -> dict[str, float]:
    """CPU seconds per million events by what used them, over some turns."""
    events = sum(turn.events for turn in turns)
    names = dict.fromkeys(name for turn in turns for name in turn.cpu)
    return {name: ratio(1e6 * sum(turn.cpu.get(name, 0.0) for turn in turns), events) for name in names}


def possible(costs: Mapping[str, float], cores: int, replicas: Mapping[str, int]) -> float:
    """Events/s on so many cores: all of it together has these, and a process one.

    Args:
        costs: CPU seconds per million events by what uses them, all replicas together.
        cores: For everything.
        replicas: How many there are of what is not one process.
    """
    alone = [cost / replicas.get(name, 1) for name, cost in costs.items()]
    return ratio(1e6, max([sum(costs.values()) / cores, *alone]))
