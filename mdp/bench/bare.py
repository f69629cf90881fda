"""The yardstick: what decoding alone costs, with a typed decoder of every field that the provider documents.

These structs are the bench's own, so that a change of the platform's events never moves the yardstick.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence

import msgspec

SLICE_SECONDS = 0.3


class BareTrade(msgspec.Struct, tag_field="ev", tag="T"):
    """A trade as it is on the wire."""

    sym: str
    x: int
    i: str
    z: int | float
    p: float
    s: int | float
    t: int
    q: int
    ds: str | None = None
    c: list[int] | None = None
    trfi: int | None = None
    trft: int | None = None


class BareQuote(msgspec.Struct, tag_field="ev", tag="Q", rename={"as_": "as"}):
    """A quote as it is on the wire."""

    sym: str
    t: int
    bx: int | None = None
    bp: float | None = None
    bs: int | float | None = None
    ax: int | None = None
    ap: float | None = None
    as_: int | float | None = None
    c: int | None = None
    i: list[int] | None = None
    q: int | None = None
    z: int | float | None = None


class BareAggregate(msgspec.Struct, tag_field="ev", tag="A"):
    """A second's bar as it is on the wire."""

    sym: str
    v: int | float
    av: int | float
    o: float
    c: float
    h: float
    l: float  # noqa: E741 (the wire's name)
    s: int
    e: int
    op: float | None = None
    vw: float | None = None
    a: float | None = None
    z: int | float | None = None
    otc: bool | None = None
    dv: str | None = None
    dav: str | None = None


decode_bare = msgspec.json.Decoder(list[BareTrade | BareQuote | BareAggregate]).decode


class BareSlice(msgspec.Struct, frozen=True):
    """One measurement of bare decoding."""

    events: int
    wall_seconds: float
    cpu_seconds: float  # of this thread

    @property
    def rate(self) -> float:
        """Events per second of wall time."""
        return self.events / self.wall_seconds

    @property
    def cpu_rate(self) -> float:
        """Events per second of CPU time: what a busy machine disturbs less."""
        return self.events / self.cpu_seconds


def measure_bare(frames: Sequence[bytes], seconds: float = SLICE_SECONDS) -> BareSlice:
    """Decode the frames over and over for at least `seconds`; events are dropped as soon as they are made.

    Blocks the caller's thread. Garbage collection is off meanwhile: the platform's heap is not the
    yardstick's business.
    """
    decode = decode_bare
    events = 0
    collecting = gc.isenabled()
    gc.disable()
    try:
        cpu = time.thread_time()
        start = now = time.perf_counter()
        while now - start < seconds:
            for frame in frames:
                events += len(decode(frame))
            now = time.perf_counter()
        cpu = time.thread_time() - cpu
    finally:
        if collecting:
            gc.enable()
    return BareSlice(events, now - start, cpu)
