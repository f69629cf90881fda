"""The AsyncAPI document of the WebSocket interface, made from the tables that the code itself uses.

`python -m mdp.wds.asyncapi` prints it; `docs/asyncapi.json` is what that printed last. Tests check this, and
that service and clients say what the document says.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from mdp.wds import protocol, protocol2
from mdp.wds.schemas import Json, envelope, event_pattern, feed_pattern, problem, subscription_pattern
from mdp.wds.views import RELATIONS

_ID = {
    "type": ["string", "integer"],
    "maxLength": protocol2.MAX_TEXT,
    "description": "Comes back in what answers this.",
}
_TEXT = {"type": "string"}
_FEED = {"type": "string", "maxLength": protocol.MAX_NAME, "pattern": feed_pattern()}
_PATTERN = {"type": "string", "maxLength": protocol.MAX_NAME, "pattern": subscription_pattern()}
_LIMIT = {"type": "integer", "minimum": 0, "description": "Rows or items at most; 0: all."}
_PLACE = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_FIELD = {"type": "string", "maxLength": protocol2.MAX_TEXT}


def document() -> Json:
    """The document, as JSON values."""
    sent, heard = _by_version(_said_by_the_service()), _by_version(_said_by_clients())
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "mdp Widget Data Service",
            "version": "2",
            "description": "Feeds of the US stock market: what there is, then what changes. In words: "
            "docs/protocol.md; payloads: docs/feeds.md; close codes: docs/security.md.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {"wds": {"host": "127.0.0.1:4202", "protocol": "ws"}},
        "channels": {
            version: {
                "address": "/ws",
                "title": title,
                "messages": {
                    name: {"$ref": f"#/components/messages/{name}"}
                    for name in (*heard[version], *sent[version])
                },
                "bindings": {"ws": {"method": "GET", **headers}},
                "x-close-codes": {str(code): text for code, text in protocol.CLOSES.items()},
            }
            for version, title, headers in (
                ("v1", "Version 1", {}),
                ("v2", f"Version 2, the subprotocol {protocol2.SUBPROTOCOL}", {"headers": _CHOOSES_V2}),
            )
        },
        "operations": {
            **{name: _operation("receive", version, [name]) for version in heard for name in heard[version]},
            **{f"{version}Tells": _operation("send", version, sent[version]) for version in sent},
        },
        "components": {
            "messages": {
                name: {"name": name, "title": title, "payload": schema}
                for name, (title, schema) in (_said_by_clients() | _said_by_the_service()).items()
            }
        },
    }


_CHOOSES_V2 = {
    "type": "object",
    "required": ["Sec-WebSocket-Protocol"],
    "properties": {"Sec-WebSocket-Protocol": {"type": "string", "const": protocol2.SUBPROTOCOL}},
}


def _by_version(messages: Iterable[str]) -> dict[str, list[str]]:
    names = list(messages)
    return {version: [name for name in names if name.startswith(version)] for version in ("v1", "v2")}


def _operation(action: str, version: str, names: list[str]) -> Json:
    channel = f"#/channels/{version}"
    return {
        "action": action,
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{name}"} for name in names],
    }


def _said_by_clients() -> dict[str, tuple[str, Json]]:
    """Each message by its name, with a title and a schema. Fields that are not named are passed over."""
    login = {"api_key": _TEXT, "token": _TEXT}
    feeds = {
        "feed": _PATTERN | {"description": "One name, in place of `feeds`."},
        "feeds": {
            "anyOf": [
                _PATTERN,
                {"type": "array", "minItems": 1, "maxItems": protocol2.MAX_FEEDS, "items": _PATTERN},
            ]
        },
    }
    return {
        "v1Auth": ("Log in", _action("auth", login)),
        "v1Subscribe": ("Be told of a feed", _action("subscribe", {"feed": _PATTERN}, "feed")),
        "v1Unsubscribe": ("No more", _action("unsubscribe", {"feed": _PATTERN}, "feed")),
        "v1Get": (
            "Ask for what there is",
            _action("get", {"cache": _FEED, "limit": _or_null(_LIMIT)}, "cache"),
        ),
        "v2Auth": ("Log in, also again with a new token", _action("auth", login | {"id": _ID})),
        "v2Subscribe": (
            "Be told of feeds",
            _action("subscribe", feeds | _options() | {"id": _ID}) | _NAMES_FEEDS | _RESUMES_ONE,
        ),
        "v2Unsubscribe": ("No more", _action("unsubscribe", feeds | {"id": _ID}) | _NAMES_FEEDS),
        "v2Get": (
            "Ask for what there is",
            _action("get", {"feed": _FEED, "limit": _or_null(_LIMIT), "id": _ID}, "feed"),
        ),
    }


_EVENT_FEED = {"type": "string", "pattern": event_pattern()}
_NAMES_FEEDS: Json = {"anyOf": [{"required": ["feeds"]}, {"required": ["feed"]}]}
#: To go on is possible for one event feed at a time.
_RESUMES_ONE: Json = {
    "if": {"required": ["resume"], "properties": {"resume": {"type": "object"}}},
    "then": {
        "properties": {
            "feed": _EVENT_FEED,
            "feeds": {"anyOf": [_EVENT_FEED, {"type": "array", "maxItems": 1, "items": _EVENT_FEED}]},
        }
    },
}


def _action(action: str, properties: Json, *required: str) -> Json:
    return {
        "type": "object",
        "required": ["action", *required],
        "properties": {"action": {"const": action}, **properties},
    }


def _or_null(schema: Json) -> Json:
    return schema | {"type": [schema["type"], "null"]}


def _options() -> Json:
    comparison = {
        "type": "array",
        "minItems": 3,
        "maxItems": 3,
        "items": [_FIELD, {"enum": list(RELATIONS)}, {"anyOf": [{"type": ["number", "boolean"]}, _FIELD]}],
    }
    return {
        "full": {"type": "boolean", "description": "Whole values, no deltas."},
        "limit": _or_null(_LIMIT),
        "fields": {"type": ["array", "null"], "maxItems": protocol2.MAX_FIELDS, "items": _FIELD},
        "where": {"type": ["array", "null"], "maxItems": protocol2.MAX_WHERE, "items": comparison},
        "resume": {
            "type": ["object", "null"],
            "required": ["epoch", "seq"],
            "properties": {"epoch": _PLACE, "seq": _PLACE},
            "description": "Of one event feed: the last message that the client has.",
        },
    }


def _said_by_the_service() -> dict[str, tuple[str, Json]]:
    feed = {"feed": _TEXT}
    feeds = {"feeds": {"type": "array", "minItems": 1, "items": _TEXT}, "id": _ID}
    told = [envelope(kind) for kind in ("snapshot", "state", "event")]
    told.append(
        envelope("delta", base={"type": "integer", "description": "seq of the value that it changes."})
    )
    told[-1]["required"].append("base")
    no_key, no_token = (f"The {what} is not accepted; closed with 4001" for what in ("key", "token"))
    both = {
        "TokenExpires": ("A new token is needed soon", _answer("token expires", _ENDS)),
        "KeyExpires": ("The key ends soon", _answer("key expires", _ENDS)),
    }
    return {
        "v1Authorized": ("Logged in", _answer("authorized")),
        "v1InvalidKey": (no_key, _answer("invalid key")),
        "v1InvalidToken": (no_token, _answer("invalid token", {"message": _TEXT})),
        "v1Subscribed": ("What follows is told", _answer("subscribed", feed)),
        "v1Unsubscribed": ("Nothing more follows", _answer("unsubscribed", feed)),
        "v1InvalidAction": ("There is no such action", _answer("invalid action")),
        "v1Error": ("What is wrong", problem(protocol.ERRORS)),
        "v1Got": (
            "What there is",
            {
                "type": "object",
                "required": ["cache", "data"],
                "additionalProperties": False,
                "properties": {"cache": _TEXT, "data": {"description": "As docs/feeds.md says."}},
            },
        ),
        "v1Payload": (
            "A feed's payload as it is",
            {"description": "As docs/feeds.md says for what is subscribed."},
        ),
        **{f"v1{name}": message for name, message in both.items()},
        "v2Authorized": ("Logged in", _answer("authorized", {}, id=_ID)),
        "v2InvalidKey": (no_key, _answer("invalid key", {}, id=_ID)),
        "v2InvalidToken": (no_token, _answer("invalid token", {"message": _TEXT}, id=_ID)),
        "v2Subscribed": ("What follows is told", _answer("subscribed", feeds, optional="id")),
        "v2Unsubscribed": ("Nothing more follows", _answer("unsubscribed", feeds, optional="id")),
        "v2Resync": ("What was missed is not kept any more", _answer("resync", feed, id=_ID)),
        "v2Error": ("What is wrong", problem(protocol2.ERRORS, id=_ID)),
        "v2Got": ("What there is", envelope("get", id=_ID)),
        "v2Messages": ("What is due, together", {"type": "array", "minItems": 1, "items": {"oneOf": told}}),
        **{f"v2{name}": message for name, message in both.items()},
    }


_ENDS: Json = {"seconds": {"type": "integer"}, "message": _TEXT}


def _answer(status: str, properties: Json | None = None, *, optional: str = "", **more: Json) -> Json:
    fields = properties or {}
    return {
        "type": "object",
        "required": ["status", *(name for name in fields if name != optional)],
        "additionalProperties": False,
        "properties": {"status": {"const": status}, **fields, **more},
    }


def text() -> str:
    """The document as it is kept in `docs/`."""
    return json.dumps(document(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")  # the whole of what was asked for
