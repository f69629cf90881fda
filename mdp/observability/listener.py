"""Shows what the listener's role counts as metrics, where it can by the names of the one process."""

from __future__ import annotations

from collections.abc import Callable

from mdp.listener.massive import MassiveListener
from mdp.listener.ring import RawRing
from mdp.listener.states import FeedState
from mdp.observability.metrics import Metrics
from mdp.processor.decode import DecodeStage
from mdp.queues.redis import StreamWriter


def show_listener(
    metrics: Metrics,
    *,
    active: Callable[[], bool],
    listener: MassiveListener,
    ring: RawRing,
    decode: DecodeStage,
    writer: StreamWriter,
) -> None:
    """Register everything.

    Args:
        metrics: Where to.
        active: Whether this is the listener that may be connected.
        listener, ring, decode, writer: What counts, in the order of an event's way.
    """
    metrics.gauges(
        "mdp_listener_active",
        "1 in the process that holds the lease of the listeners.",
        (),
        lambda: {(): float(active())},
    )
    show_feed(metrics, listener=listener, ring=ring, decode=decode)
    metrics.counters(
        "mdp_mdq_events_total",
        "Events for the streams by fate; received = sent + expired + dropped + lost + unwritable + waiting.",
        ("fate",),
        lambda: {(fate,): float(n) for fate, n in writer.accounting().items() if fate != "waiting"},
    )
    metrics.gauges(
        "mdp_mdq_waiting_events",
        "Events that wait for Redis.",
        (),
        lambda: {(): float(writer.accounting()["waiting"])},
    )
    metrics.counters(
        "mdp_mdq_entries_total",
        "Entries of the streams: written, refused by Redis and sent again, found when they were sent again.",
        ("fate",),
        lambda: {
            ("written",): float(writer.counters.entries),
            ("refused",): float(writer.counters.refused_entries),
            ("found",): float(writer.counters.found_entries),
        },
    )
    metrics.counters(
        "mdp_mdq_written_bytes_total",
        "Bytes of the entries written.",
        (),
        lambda: {(): float(writer.counters.bytes)},
    )


def show_feed(metrics: Metrics, *, listener: MassiveListener, ring: RawRing, decode: DecodeStage) -> None:
    """Register what is counted from the provider's connection up to the queues."""
    metrics.gauges(
        "mdp_feed_state",
        "State of the provider's connection: 1 for the state it is in.",
        ("state",),
        lambda: {(state.value,): float(state is listener.state) for state in FeedState},
    )
    metrics.counters(
        "mdp_feed_connections_total",
        "Connections to the provider: tried, and of those the ones that became live.",
        ("fate",),
        lambda: {
            ("tried",): float(listener.counters.attempts),
            ("live",): float(listener.counters.connects),
        },
    )
    metrics.counters(
        "mdp_feed_disconnects_total",
        "Connections to the provider that ended, by reason.",
        ("reason",),
        lambda: {(reason,): float(n) for reason, n in listener.counters.disconnects.items()},
    )
    metrics.counters(
        "mdp_feed_stalls_total",
        "Connections that were open but silent and were restarted.",
        (),
        lambda: {(): float(listener.counters.stalls)},
    )
    metrics.counters(
        "mdp_feed_statuses_total",
        "Words of the provider about the connection, by status.",
        ("status",),
        lambda: {(status,): float(n) for status, n in listener.counters.statuses.items()},
    )
    metrics.counters(
        "mdp_feed_gaps_total", "Entries of the gap ledger.", (), lambda: {(): float(listener.gaps.total)}
    )
    metrics.gauges(
        "mdp_feed_reading_held",
        "1 while reading is paused so that a replay does not overrun the ring.",
        (),
        lambda: {(): float(ring.holding)},
    )
    metrics.gauges("mdp_ring_bytes", "Frames that wait to be decoded.", (), lambda: {(): float(ring.bytes)})
    metrics.counters(
        "mdp_ring_frames_total",
        "Frames by what became of them; received = taken + shed + waiting.",
        ("fate",),
        lambda: {
            ("received",): float(ring.counters.frames),
            ("taken",): float(ring.counters.taken_frames),
            ("shed",): float(ring.counters.shed_frames),
        },
    )
    metrics.counters(
        "mdp_ring_received_bytes_total", "Bytes of frames.", (), lambda: {(): float(ring.counters.bytes)}
    )
    metrics.counters(
        "mdp_ring_shed_events_total",
        "Events in frames that were shed undecoded.",
        (),
        lambda: {(): float(ring.counters.shed_events)},
    )
    metrics.counters(
        "mdp_decoded_events_total",
        "Events decoded, by the queue that carries them.",
        ("queue",),
        lambda: {(name,): float(n) for name, n in decode.counters.decoded.items() if name != "unknown"},
    )
    metrics.counters(
        "mdp_rejected_events_total",
        "Events on the wire that were malformed or of an unknown type, by reason.",
        ("reason",),
        lambda: {(reason,): float(n) for reason, n in decode.counters.rejected.items()},
    )
