"""Metrics of a relay: as it counted, under names that two in one process do not share."""

from __future__ import annotations

from mdp.cache.keys import Keys
from mdp.cache.redis_link import Link, connect
from mdp.cache.relay import Relay
from mdp.config import CacheConfig
from mdp.observability.metrics import Metrics
from mdp.observability.relay import show_relay


async def test_counters_are_shown_as_they_were_counted() -> None:
    """Nothing is reached for it."""
    config = CacheConfig()
    client = connect(config)
    relay = Relay(client, Keys(), "wds-1", Link("relay", config))
    relay.counters.taken, relay.counters.outdated, relay.counters.lines = 5, 2, 3
    relay.events.counters.missed = 7
    relay.bus.subscribe("quote:A", lambda _message: None)
    metrics = Metrics()
    show_relay(relay, metrics)
    show_relay(relay, metrics, "mdp_scanner_relay")
    text = metrics.render().decode()
    for line in (
        'mdp_relay_messages_total{fate="taken"} 5.0',
        'mdp_relay_messages_total{fate="outdated"} 2.0',
        'mdp_relay_events_total{fate="missed"} 7.0',
        "mdp_relay_lost_connections_total 3.0",
        "mdp_relay_patterns 1.0",
        "mdp_relay_connected 0.0",
        "mdp_scanner_relay_lost_connections_total 3.0",
    ):
        assert line in text
    await client.aclose()
