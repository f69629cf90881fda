"""Forms that REST answers share: JSON bodies, pages, errors."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

REQUEST_ID = "0" * 32


def body_answer(body: bytes) -> web.Response:
    """A good answer of JSON text."""
    return web.Response(body=body, content_type="application/json")


def json_answer(value: Any) -> web.Response:
    """A good answer of a value."""
    return body_answer(msgspec.json.encode(value))


def error(code: int, text: str, status: str = "ERROR") -> web.Response:
    """An answer of a status with the reason, as the provider words it."""
    body = {"status": status, "request_id": REQUEST_ID, "error" if code != 404 else "message": text}
    return web.Response(status=code, body=msgspec.json.encode(body), content_type="application/json")


def limit_of(request: web.Request, default: int, most: int) -> int:
    """`limit` of a request, within bounds."""
    text = request.query.get("limit", "")
    return min(max(1, int(text)), most) if text.isdigit() else default


def cursor_of(request: web.Request) -> int:
    """Where the page asked for begins."""
    text = request.query.get("cursor", "")
    return int(text) if text.isdigit() and len(text) < 10 else 0


def paged(request: web.Request, results: list[Any], following: int) -> web.Response:
    """A page of results; `next_url` comes without the key, which the client attaches again."""
    answer: dict[str, Any] = {
        "status": "OK",
        "request_id": REQUEST_ID,
        "count": len(results),
        "results": results,
    }
    if following:
        query = {name: value for name, value in request.query.items() if name != "apiKey"}
        answer["next_url"] = str(request.url.with_query({**query, "cursor": str(following)}))
    return json_answer(answer)
