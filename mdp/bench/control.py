"""What the bench says to its feeder and hears from it: JSON lines over the feeder's stdin and stdout."""

from __future__ import annotations

from typing import Literal

import msgspec

from mdp.bench.clients import ClientFigures
from mdp.bench.figures import Quantiles
from mdp.bench.frames import FrameOptions
from mdp.bench.rest import Manner


class FeederOptions(msgspec.Struct, kw_only=True):
    """How to start a feeder; the one command line argument of its process, as JSON."""

    frames: FrameOptions = FrameOptions()
    pool_events: int = 200_000
    rest: Manner = "well"  # how REST requests are answered
    slow_consumer_bytes: int = 64 * 1024 * 1024  # waiting here before the reader is cut with 1008
    slow_consumer_seconds: float = 10.0
    base_ms: int = 1_773_153_000_000  # market time of the first frame: 2026-03-10 10:30 in New York


class Ready(msgspec.Struct, tag="ready"):
    """The feeder listens."""

    ws_port: int
    rest_port: int
    mean_frame_bytes: int


class Connect(msgspec.Struct, tag="connect"):
    """Open clients to the platform. Answered by `Report`."""

    port: int
    count: int
    quotes: int


class Fill(msgspec.Struct, tag="fill"):
    """Send the fill, closed loop. Answered by `Report` when all of it was handed to the kernel."""

    full_windows: int
    window_events: int


class Closed(msgspec.Struct, tag="closed"):
    """Send as fast as it is read, until `Pause`. Not answered."""

    window_events: int  # sent and not yet credited, at most; 0: TCP alone holds the feeder back


class Open(msgspec.Struct, tag="open"):
    """Send at a fixed rate. Answered by `Report` when all of it was handed to the kernel, or at the cut."""

    events_per_second: float
    seconds: float


class Credit(msgspec.Struct, tag="credit"):
    """How many of the events sent the platform is through with, since the start. Not answered."""

    events: int


class Pause(msgspec.Struct, tag="pause"):
    """Stop sending. Answered by `Report` when everything was handed to the kernel."""


class Ask(msgspec.Struct, tag="ask"):
    """Answered by `Report`; `reset` then forgets what clients counted."""

    reset: bool = False


class Quit(msgspec.Struct, tag="quit"):
    """Close the connections and end. Not answered."""


class Sent(msgspec.Struct):
    """What was handed to the kernel whole since the start, counted where it was sent."""

    frames: int = 0  # of events
    acks: int = 0  # frames of statuses that answer requests after the authentication
    bytes: int = 0
    trades: int = 0
    quotes: int = 0
    aggregates: int = 0

    @property
    def events(self) -> int:
        """All of them."""
        return self.trades + self.quotes + self.aggregates


class Report(msgspec.Struct, tag="report"):
    """Where the feeder stands."""

    re: Literal["connect", "fill", "open", "pause", "ask"]
    sent: Sent
    clients: ClientFigures
    connections: int  # that subscribed to everything
    cpu_seconds: float = 0.0  # of the feeder's process, clients included
    cut: str = ""  # why the feeder closed the platform's connection with 1008; empty: it did not
    most_waiting_bytes: int = 0  # that the kernel did not take at once
    longest_wait_ms: float = 0.0
    lateness: Quantiles = msgspec.field(default_factory=Quantiles)  # of the sender itself, open loop
    error: str = ""


Command = Connect | Fill | Closed | Open | Credit | Pause | Ask | Quit
Answer = Ready | Report

decode_command = msgspec.json.Decoder(Command).decode
decode_answer = msgspec.json.Decoder(Answer).decode


def line(message: Command | Answer | FeederOptions) -> bytes:
    """A message as one line."""
    return msgspec.json.encode(message) + b"\n"
