"""The OpenAPI document of the HTTP interface, made from the tables that the code itself uses.

`python -m mdp.wds.openapi` prints it; `docs/openapi.json` is what that printed last, which a test checks.
"""

from __future__ import annotations

import json

from mdp.wds import query, sse
from mdp.wds.schemas import RELATION, Json, envelope, feed_pattern, problem


def document() -> Json:
    """The document, as JSON values."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mdp Widget Data Service",
            "version": "1",
            "description": "Feeds of the US stock market: a value, or a stream of what changes. "
            "The same feeds, options, keys and limits as over WebSocket.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        # Either none or one: whether a key is asked for is up to the configuration.
        "security": [{}, {"key": []}],
        "paths": {
            "/api/v1/feeds/{feed}": _both(_snapshot()),
            "/api/v1/stream": _both(_stream()),
            "/api/v1/openapi.json": _both(_self("getOpenApi", "This document", "OpenAPI 3.1.")),
            "/api/v1/asyncapi.json": _both(
                _self("getAsyncApi", "The document of the WebSocket interface", "AsyncAPI 3.0.")
            ),
        },
        "components": {
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "A key of `mdp keys`, or a token (JWT). Never in a URL.",
                }
            },
            "schemas": {"Envelope": envelope("get"), "Event": _event(), "Problem": problem(query.ERRORS)},
        },
    }


def _both(get: Json) -> Json:
    """GET and HEAD."""
    head = {**get, "operationId": get["operationId"] + "Head", "summary": get["summary"] + ": headers only"}
    head["responses"] = {
        status: {name: value for name, value in response.items() if name != "content"}
        for status, response in get["responses"].items()
    }
    return {"get": get, "head": head}


def _snapshot() -> Json:
    return {
        "operationId": "getFeed",
        "summary": "What a feed holds now",
        "parameters": [
            {
                "name": "feed",
                "in": "path",
                "required": True,
                "description": "A feed's name, without a wildcard.",
                "schema": {"type": "string", "pattern": feed_pattern()},
                "examples": _examples("quote:AAPL", "scanners:top_gainers", "halts"),
            },
            *_options(),
            {
                "name": "If-None-Match",
                "in": "header",
                "description": "The ETag that you have.",
                "schema": {"type": "string"},
            },
        ],
        "responses": {
            "200": {
                "description": "The value; `data` is null where there is none.",
                "headers": {"ETag": _ETAG},
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Envelope"}}},
            },
            "304": {"description": "You have it.", "headers": {"ETag": _ETAG}},
            **_problems("400", "401", "403", "404", "406", "429", "500", "503"),
        },
    }


def _stream() -> Json:
    return {
        "operationId": "streamFeeds",
        "summary": "What feeds hold, then what changes, as Server-Sent Events",
        "parameters": [
            {
                "name": "feeds",
                "in": "query",
                "required": True,
                "description": "Feeds or wildcards, with commas between; the request line holds 8,190 bytes.",
                "style": "form",
                "explode": False,
                "schema": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "string", "pattern": feed_pattern()},
                },
            },
            *_options(),
            {
                "name": "full",
                "in": "query",
                "description": "Whole values instead of deltas.",
                "schema": {"type": "string", "enum": ["true", "false"]},
            },
            {
                "name": "Last-Event-ID",
                "in": "header",
                "description": "The last `id` that you saw: its event feed goes on behind it.",
                "schema": {"type": "string", "pattern": f"^({sse.PLACE})?$"},
            },
        ],
        "responses": {
            "200": {
                "description": "Events named `snapshot`, `state`, `delta`, `event` (with an envelope) "
                "and `resync`, `expires`, `unsubscribed`, `problem`, `close`.",
                "content": {"text/event-stream": {"schema": {"$ref": "#/components/schemas/Event"}}},
            },
            **_problems("400", "401", "403", "404", "406", "429", "500", "503", "505"),
        },
    }


def _self(operation: str, summary: str, description: str) -> Json:
    return {
        "operationId": operation,
        "summary": summary,
        "security": [],
        "responses": {
            "200": {
                "description": description,
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
            **_problems("403", "406", "500"),
        },
    }


def _options() -> list[Json]:
    return [
        {
            "name": "limit",
            "in": "query",
            "description": "Rows of a board, or items of a list, at most; 0: all.",
            "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999_999_999_999},
        },
        {
            "name": "fields",
            "in": "query",
            "description": "Of rows and values only these fields, beside `symbol` and `rank`.",
            "style": "form",
            "explode": False,
            "schema": {
                "type": "array",
                "maxItems": 100,
                "items": {"type": "string", "pattern": "^[^,]{1,64}$"},
            },
        },
        {
            "name": "where",
            "in": "query",
            "description": "Only rows, values and events that fulfil all of the comparisons, such as "
            "`pct_change>=10`.",
            "style": "form",
            "explode": True,
            "schema": {
                "type": "array",
                "maxItems": 20,
                "items": {"type": "string", "pattern": f"^[^<>=!]{{1,64}}{RELATION}[^<>=!]{{0,64}}$"},
            },
        },
    ]


_ETAG = {"schema": {"type": "string"}, "description": "Changes with the value."}
_DESCRIPTIONS = {
    "400": "A parameter is wrong.",
    "401": "No valid key or token.",
    "403": "Not permitted: the feed, or the page's origin.",
    "404": "No such feed.",
    "406": "Accept excludes what there is.",
    "429": "Too many requests, connections or failed logins; see Retry-After.",
    "500": "Our fault.",
    "503": "Not now; see Retry-After.",
    "505": "A stream needs HTTP/1.1.",
}


def _problems(*statuses: str) -> Json:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _DESCRIPTIONS[status], "content": content} for status in statuses}


def _event() -> Json:
    kinds = ["snapshot", "state", "delta", "event", "resync", "expires", "unsubscribed", "problem", "close"]
    return {
        "type": "object",
        "description": "One Server-Sent Event.",
        "required": ["event", "data"],
        "additionalProperties": False,
        "properties": {
            "event": {"type": "string", "enum": kinds},
            "id": {"type": "string", "pattern": f"^{sse.PLACE}$"},
            "data": {"type": "string", "contentMediaType": "application/json"},
            "retry": {"type": "integer", "description": "Before the first event only."},
        },
    }


def _examples(*values: str) -> Json:
    return {value: {"value": value} for value in values}


def text() -> str:
    """The document as it is kept in `docs/`."""
    return json.dumps(document(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")  # the whole of what was asked for
