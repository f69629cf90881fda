"""The provider's WebSocket conversation, apart from any socket: requests, statuses, subscriptions."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

#: Topics a client can subscribe to; a subscription to any other is not answered.
TOPICS = frozenset({"T", "Q", "A", "AM", "LULD", "NOI", "FMV"})

MAX_PAIRS = 100_000  # of one connection: a bound, far above the number of listings times topics in use

STATUS_CONNECTED = ("connected", "Connected Successfully")
STATUS_AUTH_SUCCESS = ("auth_success", "authenticated")
STATUS_AUTH_FAILED = ("auth_failed", "authentication failed")
STATUS_AUTH_TIMEOUT = ("auth_timeout", "No authentication request received.")
STATUS_NOT_AUTHORIZED = ("error", "not authorized")
STATUS_MAX_CONNECTIONS = ("max_connections", "Maximum number of websocket connections exceeded.")
STATUS_SLOW_CONSUMER = ("slow_consumer", "Slow consumer: too much data is waiting to be read.")


class Request(msgspec.Struct):
    """What a client sends: one object, never an array."""

    action: str
    params: str = ""


_decode_request = msgspec.json.Decoder(Request).decode


def parse_request(text: str | bytes) -> Request | None:
    """The request in a text frame, or None where it is no request at all."""
    try:
        return _decode_request(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def status_frame(statuses: Iterable[tuple[str, str]]) -> bytes:
    """One frame holding `(status, message)` pairs as the provider words them."""
    return msgspec.json.encode(
        [{"ev": "status", "status": status, "message": text} for status, text in statuses]
    )


class Subscriptions:
    """What one connection has asked for. Pairs of topic and symbol; `*` is every symbol."""

    def __init__(self, not_authorized: Iterable[str] = ()) -> None:
        self._not_authorized = frozenset(not_authorized)
        self._pairs: set[str] = set()  # "T.AAPL"
        self.wildcards: frozenset[str] = frozenset()  # topics subscribed with "*"
        self.key: frozenset[str] = frozenset()  # equal for connections that get the same data

    def __len__(self) -> int:
        return len(self._pairs)

    def wants(self, topic: str, symbol: str) -> bool:
        """Whether an event goes to this connection.

        An event of no known topic, or without a symbol, cannot be asked for by name: it goes to
        whoever has a wildcard.
        """
        if topic in self.wildcards or f"{topic}.{symbol}" in self._pairs:
            return True
        return (topic not in TOPICS or not symbol) and bool(self.wildcards)

    def wants_all(self, topics: Iterable[str]) -> bool:
        """Whether every event of these topics goes to this connection, whatever its symbol."""
        wildcards = self.wildcards
        return bool(wildcards) and all(topic in wildcards or topic not in TOPICS for topic in topics)

    def subscribe(self, params: str) -> list[tuple[str, str]]:
        """Add the pairs of a request; the statuses to answer, one a pair.

        Unknown topics and pairs that are already there get no answer, as at the provider.
        """
        answers: list[tuple[str, str]] = []
        for pair, topic in _pairs(params):
            if topic in self._not_authorized:
                answers.append(STATUS_NOT_AUTHORIZED)
            elif pair not in self._pairs and len(self._pairs) < MAX_PAIRS:
                self._pairs.add(pair)
                answers.append(("success", f"subscribed to: {pair}"))
        self._changed()
        return answers

    def unsubscribe(self, params: str) -> list[tuple[str, str]]:
        """Remove the pairs of a request; the statuses to answer. A pair that is not there gets none."""
        answers: list[tuple[str, str]] = []
        for pair, _ in _pairs(params):
            if pair in self._pairs:
                self._pairs.remove(pair)
                answers.append(("success", f"unsubscribed to: {pair}"))
        self._changed()
        return answers

    def _changed(self) -> None:
        self.key = frozenset(self._pairs)
        self.wildcards = frozenset(pair[:-2] for pair in self._pairs if pair.endswith(".*"))


def _pairs(params: str) -> Iterable[tuple[str, str]]:
    """`(pair, topic)` of each well-formed pair of a known topic, in order."""
    for part in params.split(","):
        pair = part.strip()
        topic, dot, symbol = pair.partition(".")
        if dot and symbol and topic in TOPICS:
            yield pair, topic
