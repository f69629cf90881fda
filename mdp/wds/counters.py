"""What the service counts, each where it happens; `/metrics` reads it."""

from __future__ import annotations

import msgspec


class WdsCounters(msgspec.Struct):
    """Totals since the start, except `clients` and `subscriptions`, which are now."""

    clients: int = 0  # connections now, those not yet authorized included
    clients_total: int = 0
    subscriptions: int = 0  # of all clients
    messages_received: int = 0  # from clients: text and binary, no control frames
    answers: int = 0  # to clients' messages
    published: int = 0  # messages that came from the bus
    conflated: int = 0  # values of state feeds replaced by a newer one within a tick, for everybody
    framed: int = 0  # messages encoded and framed, once for all clients
    deliveries: int = 0  # message times client
    bytes_sent: int = 0  # handed to the sockets: frames with headers, answers included
    skipped: int = 0  # values of state feeds that a slow client missed because a newer one came
    ticks: int = 0
    overrun: int = 0  # event messages lost because the hub itself was too far behind
    encode_errors: int = 0  # messages that are not JSON; nobody got them
    slow_closes: int = 0
    pong_timeouts: int = 0
    auth_failures: int = 0
    aborted: int = 0  # connections cut because they did not take the close
    rejected: dict[str, int] = msgspec.field(default_factory=dict)  # reason -> refused before the upgrade
    logins_denied: dict[str, int] = msgspec.field(default_factory=dict)  # reason -> logins that failed
    closed: dict[str, int] = msgspec.field(default_factory=dict)  # close code -> by rules of access
    refused: dict[str, int] = msgspec.field(default_factory=dict)  # error code -> answers of this code

    def reject(self, reason: str) -> None:
        """Count a connection refused before the upgrade; reasons are a fixed few."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def refuse(self, code: str) -> None:
        """Count a message answered with an error."""
        self.refused[code] = self.refused.get(code, 0) + 1

    def denied(self, reason: str) -> None:
        """Count a login that failed; reasons are a fixed few."""
        self.logins_denied[reason] = self.logins_denied.get(reason, 0) + 1

    def close(self, code: int) -> None:
        """Count a connection closed for what it may not, by its close code."""
        self.closed[str(code)] = self.closed.get(str(code), 0) + 1
