"""Shows what a relay over Redis counts as metrics."""

from __future__ import annotations

from mdp.cache.relay import Relay
from mdp.observability.metrics import Metrics


def show_relay(relay: Relay, metrics: Metrics, prefix: str = "mdp_relay") -> None:
    """Register everything of a relay.

    Args:
        relay: What counts.
        metrics: Where to.
        prefix: Of the names; another one for a second relay of the process.
    """
    counters, events = relay.counters, relay.events.counters
    metrics.counters(
        f"{prefix}_messages_total",
        "Messages of state feeds and raw events that came over Redis, by what became of them.",
        ("fate",),
        lambda: {
            ("taken",): float(counters.taken),
            ("repeated",): float(counters.repeated),
            ("outdated",): float(counters.outdated),
            ("malformed",): float(counters.malformed),
            ("newer",): float(counters.newer),
        },
    )
    metrics.counters(
        f"{prefix}_events_total",
        "Items of event feeds that came over Redis; missed are those trimmed before they were read.",
        ("fate",),
        lambda: {
            ("taken",): float(events.items),
            ("repeated",): float(events.repeated),
            ("missed",): float(events.missed),
            ("malformed",): float(events.malformed),
            ("newer",): float(events.newer),
        },
    )
    metrics.counters(
        f"{prefix}_lost_connections_total",
        "Connections for subscriptions that were lost.",
        (),
        lambda: {(): float(counters.lines)},
    )
    metrics.gauges(
        f"{prefix}_patterns",
        "Patterns that clients of this process subscribe to.",
        (),
        lambda: {(): float(len(relay.demand))},
    )
    metrics.gauges(
        f"{prefix}_connected",
        "1 while the connection for subscriptions is up.",
        (),
        lambda: {(): float(relay.channels.up)},
    )
