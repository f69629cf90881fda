"""Shows what the data service counts as metrics. Nothing is computed here: each term as it was counted."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from mdp.observability.metrics import Metrics

if TYPE_CHECKING:
    from mdp.wds.counters import WdsCounters
    from mdp.wds.server import WidgetDataService

#: Numbers of `WdsCounters` that only grow, with what they say.
_WDS = {
    "clients_total": "Connections of clients.",
    "messages_received": "Messages from clients.",
    "published": "Messages that came from the bus.",
    "conflated": "Values of state feeds replaced by newer ones within a tick.",
    "deliveries": "Messages times clients.",
    "bytes_sent": "Bytes handed to clients' sockets.",
    "skipped": "Values of state feeds that slow clients missed because newer ones came.",
    "overrun": "Event messages lost because the hub was too far behind.",
    "slow_closes": "Clients closed because they read too slowly.",
    "pong_timeouts": "Clients given up because they did not answer a ping.",
    "auth_failures": "Refused keys.",
    "aborted": "Connections cut because they did not take the close.",
}


def show_clients(wds: WidgetDataService, metrics: Metrics) -> None:
    """Register everything of the data service."""
    counters = wds.counters
    metrics.gauges(
        "mdp_wds_connected_clients", "Clients connected now.", (), lambda: {(): float(counters.clients)}
    )
    metrics.gauges(
        "mdp_wds_active_subscriptions",
        "Subscriptions of all clients.",
        (),
        lambda: {(): float(counters.subscriptions)},
    )
    for field, text in _WDS.items():
        name = f"mdp_wds_{field.removesuffix('_total')}_total"
        metrics.counters(name, text, (), partial(_one, counters, field))
    metrics.counters(
        "mdp_wds_rejected_total",
        "Connections refused before the upgrade, by reason.",
        ("reason",),
        lambda: {(reason,): float(n) for reason, n in counters.rejected.items()},
    )
    metrics.counters(
        "mdp_wds_logins_denied_total",
        "Logins that failed, by reason.",
        ("reason",),
        lambda: {(reason,): float(n) for reason, n in counters.logins_denied.items()},
    )
    metrics.counters(
        "mdp_wds_access_closes_total",
        "Connections closed because of a login, a key's or token's end, or too many messages, by close code.",
        ("code",),
        lambda: {(code,): float(n) for code, n in counters.closed.items()},
    )
    metrics.counters(
        "mdp_wds_access_file_errors_total",
        "Changed files of keys or certificates that could not be used; the old ones stay in use.",
        ("file",),
        lambda: {(file,): float(n) for file, n in wds.file_errors().items()},
    )
    metrics.counters(
        "mdp_wds_refused_total",
        "Messages answered with an error, by code.",
        ("code",),
        lambda: {(code,): float(n) for code, n in counters.refused.items()},
    )


def _one(counters: WdsCounters, field: str) -> Mapping[tuple[str, ...], float]:
    return {(): float(getattr(counters, field))}
