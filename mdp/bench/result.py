"""What one run of the bench found."""

from __future__ import annotations

import msgspec

from mdp.bench.accounting import Accounting, Check
from mdp.bench.clients import ClientFigures
from mdp.bench.control import Sent
from mdp.bench.figures import Quantiles, middle, ratio
from mdp.bench.process import Machine


class Segment(msgspec.Struct, frozen=True):
    """One measured stretch of closed loop and the bare decoding right before and after it."""

    events: int
    wall_seconds: float
    cpu_seconds: float  # of the platform's process
    bare_rate: float  # events/s of wall time, mean of the two slices
    bare_cpu_rate: float  # events per second of CPU time, mean of the two slices

    @property
    def rate(self) -> float:
        """Events per second, end to end."""
        return ratio(self.events, self.wall_seconds)


class Result(msgspec.Struct):
    """Everything that is printed; `--json` writes it as it is."""

    machine: Machine
    mode: str
    mix: str
    symbols: int
    events_per_frame: int
    bare_rate: float = 0.0  # events/s, median of all slices
    segments: list[Segment] = msgspec.field(default_factory=list)  # closed loop
    busy: float = 0.0  # share of a core that the platform's process used, main phase
    crowded: float = 0.0  # share of the time it was ready and other processes had the cores
    feeder_busy: float = 0.0  # the same of the feeder with its clients: near 1, it is the bottleneck
    open_rate: float = 0.0  # events/s offered
    open_seconds: float = 0.0
    open_processed_rate: float = 0.0  # events/s processed meanwhile
    cpu_us_per_event: float = 0.0  # of the platform's process, main phase
    cpu_in_bare: float = 0.0  # the same in units of the CPU time of bare decoding of an event
    clients: ClientFigures = msgspec.field(default_factory=ClientFigures)
    lag_ms: Quantiles = msgspec.field(default_factory=Quantiles)  # event loop, main phase
    longest_lag_ms: float = 0.0  # event loop, since the process began, warm-up included
    longest_work_ms: float = 0.0  # of that, the longest that was the process's own work
    longest_step_ms: float = 0.0  # of one stage of the platform, by its own timers, warm-up included
    longest_stage: str = ""  # which
    sender_lateness_ms: Quantiles = msgspec.field(default_factory=Quantiles)
    sender_most_waiting_bytes: int = 0
    sender_longest_wait_ms: float = 0.0
    rss_start_mb: float = 0.0  # platform's process before anything was sent
    rss_filled_mb: float = 0.0  # after the fill
    rss_normal_mb: float = 0.0  # peak before the overload (open loop at a multiple only)
    rss_end_mb: float = 0.0
    rss_peak_mb: float = 0.0
    fill_events: int = 0
    sent: Sent = msgspec.field(default_factory=Sent)
    accounting: Accounting = msgspec.field(default_factory=Accounting)
    checks: list[Check] = msgspec.field(default_factory=list)
    connections: int = 0  # the platform made; more than one means it lost one
    cut: str = ""  # why the feeder closed its connection; empty: it did not

    @property
    def rate(self) -> float:
        """Events per second end to end, closed loop: the median of the segments."""
        return middle([segment.rate for segment in self.segments])

    @property
    def ratio(self) -> float:
        """End to end against bare: the median of the segments' ratios."""
        return middle([ratio(segment.rate, segment.bare_rate) for segment in self.segments])

    @property
    def cpu_ratio(self) -> float:
        """The same by CPU time, which other processes on the machine disturb less."""
        return ratio(1.0, self.cpu_in_bare)

    @property
    def exact(self) -> bool:
        """Whether every event is accounted for and analyzed, on one connection that was never cut."""
        return all(check.exact for check in self.checks) and self.connections == 1 and not self.cut
