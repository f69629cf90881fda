"""Version 1 of the client protocol, without a socket: what a client may say, and every answer.

`parse` takes any text and gives a command or a refusal; it never raises. The tables at the top are
the whole vocabulary of refusals and closes.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mdp.cache.base import encode_json
from mdp.feeds import match, resolve

#: Codes of `{"status":"error","code":...}`; the connection stays, except after `unauthorized`.
ERRORS: dict[str, str] = {
    "not_json": "the message is not JSON",
    "not_object": "the message must be a JSON object",
    "binary": "binary messages are not understood; send JSON as text",
    "bad_feed": "the feed's name must be a string",
    "unknown_feed": "there is no such feed",
    "wildcard_in_get": "get takes one feed's name, without a wildcard",
    "bad_limit": "limit must be a whole number, 0 (all) or more",
    "too_many_subscriptions": "unsubscribe from something first",
    "unauthorized": "the first message must be an auth with a valid key",
    "forbidden": "the key or token does not permit this feed",
    "slow_down": "too many messages a second; go on and the connection is closed",
    "unavailable": "the value cannot be read now; ask again later",
}

#: Close codes; `CLOSES` says which are worth a reconnect.
GOING_AWAY = 1001
TOO_BIG = 1009
UNAUTHORIZED = 4001
AUTH_TIMEOUT = 4002
NO_PONG = 4003
ACCESS_ENDED = 4004
TOKEN_EXPIRED = 4005
TOO_MANY_CONNECTIONS = 4006
TOO_SLOW = 4008
TOO_MANY_ACTIONS = 4029
TOO_MANY_LOGINS = 4030

#: What each close code means, and what to do then.
CLOSES: dict[int, str] = {
    GOING_AWAY: "the service stops; reconnect, with back-off",
    TOO_BIG: "a message above the limit; reconnecting does not help",
    UNAUTHORIZED: "no valid key or token; reconnecting does not help",
    AUTH_TIMEOUT: "no auth in time; reconnect and send it first",
    NO_PONG: "a ping was not answered; reconnect",
    ACCESS_ENDED: "the key was revoked or has expired; reconnecting does not help",
    TOKEN_EXPIRED: "the token has expired; reconnect with a new one",
    TOO_MANY_CONNECTIONS: "too many connections of this key or subject; reconnect later",
    TOO_SLOW: "events were read too slowly; reconnect with fewer subscriptions",
    TOO_MANY_ACTIONS: "too many messages a second; reconnect after a pause, and send less",
    TOO_MANY_LOGINS: "too many failed logins from this address; reconnect after the seconds named",
}

TOO_SLOW_REASON = "too slow for the events subscribed: read faster or subscribe to fewer feeds"

MAX_NAME = 128  # characters; longer than any feed of the contract
MAX_LIMIT = 1_000_000  # more than any list holds


class Auth(msgspec.Struct, frozen=True):
    """`auth` with a key or a token; each is empty where none, or none of a string's type, was sent."""

    api_key: str
    token: str = ""

    def __repr__(self) -> str:
        return "Auth(********)"


class Subscribe(msgspec.Struct, frozen=True):
    """`subscribe` to a feed or wildcard of the contract."""

    feed: str


class Unsubscribe(msgspec.Struct, frozen=True):
    """`unsubscribe` from a feed or wildcard of the contract, subscribed or not."""

    feed: str


class Get(msgspec.Struct, frozen=True):
    """`get` of one feed's last value or list."""

    key: str
    limit: int  # rows or items at most; 0: all


class Refusal(msgspec.Struct, frozen=True):
    """What could not be understood. An empty code stands for an unknown action."""

    code: str
    detail: str = ""

    def json(self) -> bytes:
        """The answer the client gets."""
        return error(self.code, self.detail) if self.code else INVALID_ACTION


Command = Auth | Subscribe | Unsubscribe | Get

AUTHORIZED = b'{"status":"authorized"}'
INVALID_KEY = b'{"status":"invalid key"}'
INVALID_ACTION = b'{"status":"invalid action"}'


def parse(text: str | bytes) -> Command | Refusal:
    """One message of a client, bytes if it was a binary one. Never raises."""
    message = read(text)
    if isinstance(message, str):
        return Refusal(message)
    match message.get("action"):
        case "auth":
            return login(message)
        case "subscribe":
            return _subscription(message, Subscribe)
        case "unsubscribe":
            return _subscription(message, Unsubscribe)
        case "get":
            return _get(message)
        case _:
            return Refusal("")


def read(text: str | bytes) -> dict[str, Any] | str:
    """A message of either version, or the code of what is wrong with it."""
    if isinstance(text, bytes):
        return "binary"
    try:
        message: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
        return "not_json"
    if not isinstance(message, dict):
        return "not_object"
    return message


def login(message: dict[str, Any]) -> Auth:
    """The `auth` of either version."""
    key, token = message.get("api_key"), message.get("token")
    return Auth(key if isinstance(key, str) else "", token if isinstance(token, str) else "")


def _subscription(
    message: dict[str, Any], kind: type[Subscribe] | type[Unsubscribe]
) -> Subscribe | Unsubscribe | Refusal:
    feed = message.get("feed")
    if not isinstance(feed, str):
        return Refusal("bad_feed", "'feed' must be a string, e.g. \"quote:AAPL\"")
    if len(feed) > MAX_NAME or not match(feed):
        return Refusal("unknown_feed", f"no feed matches {shown(feed)}")
    return kind(feed)


def _get(message: dict[str, Any]) -> Get | Refusal:
    key, limit = message.get("cache"), message.get("limit")
    if not isinstance(key, str):
        return Refusal("bad_feed", "'cache' must be a string, e.g. \"scanners:top_gainers\"")
    if "*" in key:
        return Refusal("wildcard_in_get")
    if len(key) > MAX_NAME or resolve(key) is None:
        return Refusal("unknown_feed", f"no feed is called {shown(key)}")
    if limit is None:
        return Get(key, 0)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        return Refusal("bad_limit")
    return Get(key, min(limit, MAX_LIMIT))


def shown(name: str) -> str:
    """A client's text as it may be repeated: short, printable ASCII."""
    return ascii(name[:80])


def invalid_token(reason: str) -> bytes:
    """The answer to an `auth` whose token is not accepted."""
    return encode_json({"status": "invalid token", "message": reason})


def expires(what: str, seconds: float) -> bytes:
    """The warning before the end: `token expires` or `key expires`, in how many seconds."""
    message = f"send auth with a new {what} within {seconds:.0f} s to stay connected"
    return encode_json({"status": f"{what} expires", "seconds": round(seconds), "message": message})


def subscribed(feed: str) -> bytes:
    """The answer to a subscribe, also a repeated one."""
    return encode_json({"status": "subscribed", "feed": feed})


def unsubscribed(feed: str) -> bytes:
    """The answer to an unsubscribe, also of what was not subscribed."""
    return encode_json({"status": "unsubscribed", "feed": feed})


def error(code: str, detail: str = "") -> bytes:
    """A refusal by its code in `ERRORS`; `detail` replaces the general message."""
    return encode_json({"status": "error", "code": code, "message": detail or ERRORS[code]})


def got(key: str, data: bytes) -> bytes:
    """The answer to a get; `data` is JSON."""
    return b"".join((b'{"cache":', encode_json(key), b',"data":', data, b"}"))
