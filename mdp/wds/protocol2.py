"""Version 2 of the client protocol, without a socket: what a client may say, and every answer.

As `protocol` does for version 1: `parse` takes any text and gives a command or a refusal, and never raises.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import msgspec

from mdp.cache.base import encode_json
from mdp.feeds import EVENT, match, resolve
from mdp.wds import protocol
from mdp.wds.views import RELATIONS, Options

#: The WebSocket subprotocol that chooses this version.
SUBPROTOCOL = "mdp.v2"

#: Codes beside those of version 1; the connection stays.
ERRORS: dict[str, str] = protocol.ERRORS | {
    "bad_feeds": "'feeds' must be a list of names, or 'feed' one",
    "bad_option": "an option has a wrong type or value",
    "bad_resume": "'resume' must hold epoch and seq of the last message, for one event feed without wildcard",
    "invalid_action": "there is no such action; see auth, subscribe, unsubscribe, get",
}

MAX_FEEDS = 1_000
MAX_FIELDS = 100
MAX_WHERE = 20
MAX_TEXT = 64


class Auth(msgspec.Struct, frozen=True):
    """`auth`, as in version 1."""

    login: protocol.Auth
    id: Any = None


class Subscribe(msgspec.Struct, frozen=True):
    """`subscribe` to feeds or wildcards of the contract, all seen with the same options."""

    feeds: tuple[str, ...]
    options: Options
    resume: tuple[int, int] | None  # (epoch, seq): of one event feed
    id: Any = None


class Unsubscribe(msgspec.Struct, frozen=True):
    """`unsubscribe` from feeds or wildcards, subscribed or not."""

    feeds: tuple[str, ...]
    id: Any = None


class Get(msgspec.Struct, frozen=True):
    """`get` of one feed's last value or list."""

    feed: str
    limit: int
    id: Any = None


class Refusal(msgspec.Struct, frozen=True):
    """What could not be understood."""

    code: str
    detail: str = ""
    id: Any = None

    def json(self) -> bytes:
        """The answer the client gets."""
        return error(self.code, self.detail, self.id)


Command = Auth | Subscribe | Unsubscribe | Get


class _Bad(Exception):
    def __init__(self, code: str, detail: str = "") -> None:
        self.code = code
        self.detail = detail


def parse(text: str | bytes) -> Command | Refusal:
    """One message of a client, bytes if it was a binary one. Never raises."""
    message = protocol.read(text)
    if isinstance(message, str):
        return Refusal(message)
    number = message.get("id")
    if not isinstance(number, str | int | None) or (isinstance(number, str) and len(number) > MAX_TEXT):
        number = None
    try:
        match message.get("action"):
            case "auth":
                return Auth(protocol.login(message), number)
            case "subscribe":
                return _subscribe(message, number)
            case "unsubscribe":
                return Unsubscribe(_feeds(message), number)
            case "get":
                return _get(message, number)
    except _Bad as bad:
        return Refusal(bad.code, bad.detail, number)
    return Refusal("invalid_action", "", number)


def _feeds(message: dict[str, Any]) -> tuple[str, ...]:
    feeds = message.get("feeds", message.get("feed"))
    names = [feeds] if isinstance(feeds, str) else feeds
    if not isinstance(names, list) or not 0 < len(names) <= MAX_FEEDS:
        raise _Bad("bad_feeds", f"'feeds' must be a list of 1 to {MAX_FEEDS} names, e.g. [\"quote:AAPL\"]")
    for name in names:
        if not isinstance(name, str):
            raise _Bad("bad_feeds")
        if len(name) > protocol.MAX_NAME or not match(name):
            raise _Bad("unknown_feed", f"no feed matches {protocol.shown(name)}")
    return tuple(dict.fromkeys(names))


def _subscribe(message: dict[str, Any], number: Any) -> Subscribe:
    feeds = _feeds(message)
    full = message.get("full", False)
    if not isinstance(full, bool):
        raise _Bad("bad_option", "'full' must be true or false")
    options = Options(full, _limit(message), _fields(message), _where(message))
    return Subscribe(feeds, options, _resume(message, feeds), number)


def _limit(message: dict[str, Any]) -> int:
    limit = message.get("limit") or 0
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise _Bad("bad_limit")
    return min(limit, protocol.MAX_LIMIT)


def _fields(message: dict[str, Any]) -> tuple[str, ...]:
    fields = message.get("fields") or []
    if not isinstance(fields, list) or len(fields) > MAX_FIELDS or not all(map(_is_name, fields)):
        raise _Bad("bad_option", f"'fields' must be a list of at most {MAX_FIELDS} names of fields")
    return tuple(sorted(set(fields)))  # in any order, they are the same view


def _where(message: dict[str, Any]) -> tuple[tuple[str, str, str | float | bool], ...]:
    where = message.get("where") or []
    if not isinstance(where, list) or len(where) > MAX_WHERE:
        raise _Bad("bad_option", f"'where' must be a list of at most {MAX_WHERE} comparisons")
    for part in where:
        if not (
            isinstance(part, list)
            and len(part) == 3
            and _is_name(part[0])
            and part[1] in RELATIONS
            and (isinstance(part[2], int | float) or _is_name(part[2]))
        ):
            example = '["pct_change", ">=", 10]'
            raise _Bad(
                "bad_option", f"'where' must hold comparisons such as {example}, with {' '.join(RELATIONS)}"
            )
    return tuple(sorted(((part[0], part[1], part[2]) for part in where), key=repr))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _resume(message: dict[str, Any], feeds: tuple[str, ...]) -> tuple[int, int] | None:
    resume = message.get("resume")
    if resume is None:
        return None
    found = resolve(feeds[0]) if len(feeds) == 1 and "*" not in feeds[0] else None
    epoch, seq = (resume.get("epoch"), resume.get("seq")) if isinstance(resume, dict) else (None, None)
    if found is None or found[0].kind != EVENT or not _is_place(epoch) or not _is_place(seq):
        raise _Bad("bad_resume")
    return epoch, seq


def _is_place(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _get(message: dict[str, Any], number: Any) -> Get:
    key = message.get("feed", message.get("cache"))
    if not isinstance(key, str):
        raise _Bad("bad_feed", "'feed' must be a string, e.g. \"scanners:top_gainers\"")
    if "*" in key:
        raise _Bad("wildcard_in_get")
    if len(key) > protocol.MAX_NAME or resolve(key) is None:
        raise _Bad("unknown_feed", f"no feed is called {protocol.shown(key)}")
    return Get(key, _limit(message), number)


def _with_id(answer: dict[str, Any], number: Any) -> bytes:
    return encode_json(answer if number is None else {**answer, "id": number})


def numbered(answer: bytes, number: Any) -> bytes:
    """An answer of version 1 with the question's `id`."""
    return answer if number is None else b'%b,"id":%b}' % (answer[:-1], encode_json(number))


def subscribed(feeds: tuple[str, ...], number: Any = None) -> bytes:
    """The answer to a subscribe, before any of its messages."""
    return _with_id({"status": "subscribed", "feeds": list(feeds)}, number)


def unsubscribed(feeds: tuple[str, ...], number: Any = None) -> bytes:
    """The answer to an unsubscribe, also of what was not subscribed."""
    return _with_id({"status": "unsubscribed", "feeds": list(feeds)}, number)


def resync(feed: str, number: Any = None) -> bytes:
    """What a client missed is not kept any more: what there is now follows."""
    return _with_id({"status": "resync", "feed": feed}, number)


def error(code: str, detail: str = "", number: Any = None) -> bytes:
    """A refusal by its code in `ERRORS`; `detail` replaces the general message."""
    return _with_id({"status": "error", "code": code, "message": detail or ERRORS[code]}, number)
