"""What an HTTP request asks for, without a socket: query parameters as the options of version 2.

Names, values and refusals are those of the WebSocket protocol: parameters are put into its messages, and
its parser judges them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from mdp.cache.base import encode_json
from mdp.wds import protocol, protocol2
from mdp.wds.sse import Place, places
from mdp.wds.views import Options

#: Codes beside those of version 2.
ERRORS: dict[str, str] = protocol2.ERRORS | {
    "key_in_url": "a key or token in a URL ends up in logs and histories: take it for known and revoke it; "
    "send it in the header Authorization: Bearer ...",
    "unknown_parameter": "there is no such query parameter",
    "not_found": "there is nothing at this address; see /api/v1/openapi.json",
    "method_not_allowed": "this address can only be read: GET, HEAD or OPTIONS",
    "not_acceptable": "the Accept header excludes what this address answers with",
    "origin": "pages of this origin may not read here; add it to wds.allowed_origins to allow it",
    "throttled": "too many failed logins from this address",
    "too_many_connections": "too many connections with this key or token",
    "full": "all places are taken (wds.max_clients); try again later",
    "stopping": "the service is stopping",
    "http_version": "a stream needs HTTP/1.1",
    "bad_request": "the request cannot be understood",
    "failed": "this request failed; the others are served",
}

STATUS: dict[str, HTTPStatus] = {
    "unknown_feed": HTTPStatus.NOT_FOUND,
    "unauthorized": HTTPStatus.UNAUTHORIZED,
    "forbidden": HTTPStatus.FORBIDDEN,
    "origin": HTTPStatus.FORBIDDEN,
    "not_found": HTTPStatus.NOT_FOUND,
    "method_not_allowed": HTTPStatus.METHOD_NOT_ALLOWED,
    "not_acceptable": HTTPStatus.NOT_ACCEPTABLE,
    "slow_down": HTTPStatus.TOO_MANY_REQUESTS,
    "throttled": HTTPStatus.TOO_MANY_REQUESTS,
    "too_many_connections": HTTPStatus.TOO_MANY_REQUESTS,
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "full": HTTPStatus.SERVICE_UNAVAILABLE,
    "stopping": HTTPStatus.SERVICE_UNAVAILABLE,
    "http_version": HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    "failed": HTTPStatus.INTERNAL_SERVER_ERROR,
}

_SECRETS = frozenset({"key", "api_key", "apikey", "token", "access_token", "jwt", "auth", "authorization"})
_COMPARISON = re.compile(r"([^<>=!]+)(<=|>=|!=|=|<|>)(.*)", re.DOTALL)
_OPTIONS = frozenset({"limit", "fields", "where"})

Parameters = Iterable[tuple[str, str]]


class Problem(Exception):
    """A request that is not done.

    Attributes:
        code: One of `ERRORS`.
        headers: Of the answer.
    """

    def __init__(self, code: str, detail: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(detail or ERRORS[code])
        self.code = code
        self.headers = headers or {}

    @property
    def status(self) -> HTTPStatus:
        """The status of the answer."""
        return STATUS.get(self.code, HTTPStatus.BAD_REQUEST)

    def json(self) -> bytes:
        """The body of the answer."""
        return encode_json({"status": "error", "code": self.code, "message": str(self)})


class Snapshot(NamedTuple):
    """A feed's value that is asked for."""

    feed: str
    options: Options


class Stream(NamedTuple):
    """Feeds to be told of, all seen with the same options, and where some of them go on."""

    feeds: tuple[str, ...]
    options: Options
    resume: dict[str, Place]


def refuse_secrets(names: Iterable[str]) -> None:
    """Look at the names of query parameters, before anything else is done.

    Raises:
        Problem: One is called as a secret is.
    """
    if any(name.lower() in _SECRETS for name in names):
        raise Problem("key_in_url")


def snapshot(feed: str, parameters: Parameters) -> Snapshot:
    """A request of one feed's value.

    Raises:
        Problem: There is no such feed, or a parameter is wrong.
    """
    _parsed({"action": "get", "feed": feed})
    message = _message(parameters, _OPTIONS)
    return Snapshot(feed, _subscription({"feeds": [feed], **message}).options)


def stream(parameters: Parameters, last_event_id: str = "") -> Stream:
    """A request of a stream.

    Raises:
        Problem: There is no such feed, or a parameter is wrong.
    """
    message = _message(parameters, _OPTIONS | {"feeds", "full"})
    found = _subscription(message)
    try:
        resume = places(last_event_id, found.feeds)
    except ValueError as error:
        raise Problem("bad_resume", str(error)) from None
    return Stream(found.feeds, found.options, resume)


def credentials(header: str | None) -> protocol.Auth:
    """The key or token of an Authorization header, both empty where there is none.

    Raises:
        Problem: It is of another scheme.
    """
    if header is None:
        return protocol.Auth("")
    scheme, _, secret = header.partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise Problem("unauthorized", "the header must read: Authorization: Bearer KEY_OR_TOKEN", CHALLENGE)
    # A JWT is three parts, the first of which begins with the base64 of '{"'; a key of ours has no dots.
    is_token = secret.startswith("eyJ") and secret.count(".") == 2
    return protocol.Auth("", secret) if is_token else protocol.Auth(secret)


CHALLENGE = {"WWW-Authenticate": 'Bearer realm="mdp"'}


def _message(parameters: Parameters, known: frozenset[str]) -> dict[str, Any]:
    """Query parameters as the fields of a message of version 2."""
    message: dict[str, Any] = {}
    where: list[list[Any]] = []
    for name, text in parameters:
        if name not in known:
            shown = protocol.shown(name)
            raise Problem("unknown_parameter", f"there is no parameter {shown}; known are {_list(known)}")
        if name == "where":
            where.append(_comparison(text))
        elif name in message:
            raise Problem("bad_option", f"'{name}' comes twice")
        elif name == "limit":
            message[name] = _limit(text)
        elif name == "full":
            if text not in ("true", "false"):
                raise Problem("bad_option", "'full' must be true or false")
            message[name] = text == "true"
        else:
            message[name] = text.split(",") if text else []
    return message | {"where": where}


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise Problem("bad_limit")
    return int(text)


def _comparison(text: str) -> list[Any]:
    """`pct_change>=10` in its parts. A value that is no JSON number, truth value or string is a text."""
    found = _COMPARISON.fullmatch(text)
    if found is None:
        raise Problem("bad_option", "'where' must be a comparison such as pct_change>=10; it may come again")
    name, relation, wanted = found.groups()
    try:
        value = msgspec.json.decode(wanted, type=bool | float | str)
    except (msgspec.DecodeError, UnicodeError, ValueError):
        value = wanted
    return [name, relation, value]


def _subscription(message: dict[str, Any]) -> protocol2.Subscribe:
    command = _parsed({"action": "subscribe", **message})
    assert isinstance(command, protocol2.Subscribe)
    return command


def _parsed(message: dict[str, Any]) -> protocol2.Command:
    command = protocol2.parse(json.dumps(message))
    if isinstance(command, protocol2.Refusal):
        raise Problem(command.code, command.detail)
    return command
