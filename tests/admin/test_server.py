"""The control API over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from mdp.admin.controls import NotHereError, NotYetError, UnknownSymbolError
from mdp.admin.server import MAX_BODY_BYTES, AdminServer
from mdp.config import AdminConfig

JSON = {"Content-Type": "application/json"}
READS = ("status", "gaps", "queues", "analyzers")
CHANGES = ("feed/start", "feed/stop", "feed/restart", "feed/configure", "record/start", "record/stop")


class FakeControls:
    """Writes down what it is told; fails or waits on command."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.error: Exception | None = None
        self.called = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def _call(self, *call: Any) -> None:
        self.calls.append(call)
        self.called.set()
        await self.go.wait()
        if self.error:
            raise self.error

    def status(self) -> dict[str, Any]:
        if self.error:
            raise self.error
        return {"feed": {"state": "live"}}

    def gaps(self) -> list[dict[str, Any]]:
        return [{"start": 1, "end": 2}]

    def queues(self) -> dict[str, Any]:
        return {"trades": {"received": 1}}

    def analyzers(self) -> list[dict[str, Any]]:
        return [{"name": "leaderboards"}]

    async def explain(self, symbol: str) -> dict[str, Any]:
        self.calls.append(("explain", symbol))
        if self.error:
            raise self.error
        return {"symbol": symbol, "fields": {}}

    async def feed_start(self) -> None:
        await self._call("feed_start")

    async def feed_stop(self) -> None:
        await self._call("feed_stop")

    async def feed_restart(self) -> None:
        await self._call("feed_restart")

    async def feed_configure(
        self, feed: str | None, market: str | None, subscriptions: list[str] | None
    ) -> None:
        await self._call("feed_configure", feed, market, subscriptions)

    async def record_start(self, path: str) -> None:
        await self._call("record_start", path)

    async def record_stop(self) -> None:
        await self._call("record_stop")


@asynccontextmanager
async def serving(
    controls: FakeControls, *, token: str = "", change_seconds: float = 30.0
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a started server."""
    server = AdminServer(AdminConfig(port=0, token=token), controls, change_seconds=change_seconds)
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
            yield session
    finally:
        await server.stop()


async def ask(
    session: aiohttp.ClientSession, method: str, path: str, data: bytes = b"", **headers: str
) -> tuple[int, Any]:
    """(status, decoded JSON) of one request, sent as JSON."""
    async with session.request(method, f"/api/v1{path}", data=data, headers=JSON | headers) as answer:
        assert answer.content_type == "application/json"
        return answer.status, await answer.json()


async def test_reads_answer_what_the_process_says() -> None:
    """Each read is the controls' answer as JSON."""
    async with serving(FakeControls()) as session:
        assert await ask(session, "GET", "/status") == (200, {"feed": {"state": "live"}})
        assert await ask(session, "GET", "/gaps") == (200, {"gaps": [{"start": 1, "end": 2}]})
        assert await ask(session, "GET", "/queues") == (200, {"trades": {"received": 1}})
        assert await ask(session, "GET", "/analyzers") == (200, {"analyzers": [{"name": "leaderboards"}]})


async def test_the_root_lists_every_route() -> None:
    """An operator finds all there is without the documentation."""
    async with serving(FakeControls()) as session:
        status, body = await ask(session, "GET", "")
    listed = {(route["method"], route["path"]) for route in body["routes"]}
    assert status == 200
    assert listed == (
        {("GET", "/api/v1"), ("GET", "/api/v1/explain/{symbol}")}
        | {("GET", f"/api/v1/{path}") for path in READS}
        | {("POST", f"/api/v1/{path}") for path in CHANGES}
    )
    assert all(route["help"] for route in body["routes"])


@pytest.mark.parametrize(
    ("path", "symbol"),
    [
        ("AAPL", "AAPL"),
        ("BRK.A", "BRK.A"),
        ("X:BTCUSD", "X:BTCUSD"),
        ("ABC%2FWS", "ABC/WS"),
        ("ABC/WS", "ABC/WS"),
        ("a" * 32, "a" * 32),
    ],
)
async def test_a_symbol_is_explained(path: str, symbol: str) -> None:
    """Whatever a symbol may be written with, escaped or not."""
    controls = FakeControls()
    async with serving(controls) as session:
        assert await ask(session, "GET", f"/explain/{path}") == (200, {"symbol": symbol, "fields": {}})
    assert controls.calls == [("explain", symbol)]


@pytest.mark.parametrize("path", ["A%20B", "%00", "a" * 33, "A%3CB", "%C3%84"])
async def test_a_name_that_no_symbol_has_is_refused(path: str) -> None:
    """400, what is allowed, and nobody is asked."""
    controls = FakeControls()
    async with serving(controls) as session:
        status, body = await ask(session, "GET", f"/explain/{path}")
    assert status == 400
    assert "letters, digits" in body["error"]
    assert controls.calls == []


async def test_an_unknown_symbol_is_not_found_and_says_what_to_check() -> None:
    """404; a fault of the program that looks like a missing key stays a fault."""
    controls = FakeControls()
    controls.error = UnknownSymbolError("nothing is known of 'AAA': check its spelling")
    async with serving(controls) as session:
        assert await ask(session, "GET", "/explain/AAA") == (
            404, {"error": "nothing is known of 'AAA': check its spelling"}
        )  # fmt: skip
        controls.error = KeyError("secret")
        status, body = await ask(session, "GET", "/explain/AAA")
    assert (status, body) == (500, {"error": "internal error; the log has the cause"})


async def test_another_process_is_named_and_who_is_early_is_told_when_to_ask() -> None:
    """404 with the same for programs beside the line; 503 and `Retry-After`."""
    controls = FakeControls()
    controls.error = NotHereError("ask b", owner="b", partition=3)
    async with serving(controls) as session:
        assert await ask(session, "GET", "/explain/AAA") == (
            404, {"error": "ask b", "owner": "b", "partition": 3}
        )  # fmt: skip
        controls.error = NotYetError("soon")
        async with session.get("/api/v1/explain/AAA") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "3")
            assert await answer.json() == {"error": "soon"}


async def test_explaining_is_guarded_and_changes_nothing() -> None:
    """A token where one is set; only GET."""
    controls = FakeControls()
    async with serving(controls, token="a-token-of-some-length") as session:
        status, _ = await ask(session, "GET", "/explain/AAPL")
        assert status == 401
    async with serving(controls) as session:
        assert (await ask(session, "POST", "/explain/AAPL"))[0] == 405
    assert controls.calls == []


@pytest.mark.parametrize(
    ("path", "body", "call"),
    [
        ("/feed/start", b"", ("feed_start",)),
        ("/feed/stop", b"{}", ("feed_stop",)),
        ("/feed/restart", b" \n", ("feed_restart",)),
        ("/feed/configure", b'{"feed":"Delayed"}', ("feed_configure", "Delayed", None, None)),
        (
            "/feed/configure",
            b'{"market":"stocks","subscriptions":["A.*"]}',
            ("feed_configure", None, "stocks", ["A.*"]),
        ),
        ("/record/start", b'{"path":"day.frames.gz"}', ("record_start", "day.frames.gz")),
        ("/record/stop", b"", ("record_stop",)),
    ],
)
async def test_a_change_reaches_the_process(path: str, body: bytes, call: tuple[Any, ...]) -> None:
    """POST does it once and says so."""
    controls = FakeControls()
    async with serving(controls) as session:
        assert await ask(session, "POST", path, body) == (200, {"ok": True})
    assert controls.calls == [call]


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_post_changes_anything(path: str, method: str) -> None:
    """A link, an image or a prefetch must never stop the feed."""
    controls = FakeControls()
    async with serving(controls) as session:
        status, body = await ask(session, method, f"/{path}")
    assert (status, body) == (405, {"error": "use POST here"})
    assert controls.calls == []


@pytest.mark.parametrize("path", READS)
async def test_reads_are_not_posted(path: str) -> None:
    """A read by POST is refused, and says what to use."""
    async with serving(FakeControls()) as session:
        assert await ask(session, "POST", f"/{path}") == (405, {"error": "use GET here"})


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/feed/start", b'{"now":true}', "now"),
        ("/feed/configure", b"{}", "nothing to change"),
        ("/feed/configure", b'{"fed":"Delayed"}', "fed"),
        ("/feed/configure", b'{"feed":7}', "str"),
        ("/feed/configure", b'{"subscriptions":"A.*"}', "array"),
        ("/feed/configure", b"[]", "object"),
        ("/feed/configure", b"{", "truncated"),
        ("/feed/configure", b"\xff\xfe", "malformed"),
        ("/feed/configure", b'{"feed":"\xff"}', "not what is expected"),
        ("/feed/configure", b'{"subscriptions":' + b"[" * 30_000, "not what is expected"),
        ("/record/start", b"{}", "path"),
        ("/record/start", b'{"path":""}', "path must name a file"),
        ("/record/start", b'{"path":"a\\u0000b"}', "path must name a file"),
    ],
)
async def test_a_body_that_is_wrong_says_how_and_changes_nothing(path: str, body: bytes, word: str) -> None:
    """400 with one line; unknown fields are refused, not ignored."""
    controls = FakeControls()
    async with serving(controls) as session:
        status, answer = await ask(session, "POST", path, body)
    assert status == 400
    assert word in answer["error"]
    assert controls.calls == []


async def test_what_the_process_cannot_follow_is_the_operators_to_read() -> None:
    """A ValueError of the controls is the answer's line."""
    controls = FakeControls()
    controls.error = ValueError('market must be "stocks"')
    async with serving(controls) as session:
        answer = await ask(session, "POST", "/feed/configure", b'{"market":"moon"}')
    assert answer == (400, {"error": 'market must be "stocks"'})


async def test_a_fault_of_the_program_tells_nothing() -> None:
    """The exception's text may hold anything; it goes to the log only."""
    controls = FakeControls()
    controls.error = RuntimeError("secret-key-123")
    async with serving(controls) as session:
        expected = (500, {"error": "internal error; the log has the cause"})
        assert await ask(session, "POST", "/feed/start") == expected
        assert await ask(session, "GET", "/status") == expected


async def test_bodies_are_bounded() -> None:
    """64 KiB are read, more is refused, also when the length is not announced."""
    controls = FakeControls()
    padding = b" " * (MAX_BODY_BYTES - 2)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield padding

    async with serving(controls) as session:
        assert (await ask(session, "POST", "/feed/start", padding + b"{}"))[0] == 200
        status, body = await ask(session, "POST", "/feed/start", padding + b"{ }")
        assert (status, str(MAX_BODY_BYTES) in body["error"]) == (413, True)
        async with session.post("/api/v1/feed/start", data=chunks(), headers=JSON) as answer:
            assert answer.status == 413
    assert len(controls.calls) == 1


async def test_one_change_at_a_time() -> None:
    """While a change is under way another is refused at once; reads go on; afterwards it is free again."""
    controls = FakeControls()
    controls.go.clear()
    async with serving(controls) as session:
        first = asyncio.create_task(ask(session, "POST", "/feed/restart"))
        await controls.called.wait()
        status, body = await ask(session, "POST", "/feed/stop")
        assert (status, "feed/restart is under way" in body["error"]) == (409, True)
        assert (await ask(session, "GET", "/status"))[0] == 200

        controls.go.set()
        assert (await first)[0] == 200
        assert (await ask(session, "POST", "/feed/stop"))[0] == 200
    assert controls.calls == [("feed_restart",), ("feed_stop",)]


async def test_a_change_that_never_ends_is_given_up() -> None:
    """504 after the limit, and the next change is possible."""
    controls = FakeControls()
    controls.go.clear()
    async with serving(controls, change_seconds=0.05) as session:
        assert (await ask(session, "POST", "/feed/stop"))[0] == 504
        controls.go.set()
        assert (await ask(session, "POST", "/feed/start"))[0] == 200


async def test_without_the_token_nothing_is_seen_or_done() -> None:
    """Also not which paths exist."""
    controls = FakeControls()
    async with serving(controls, token="secret-token") as session:
        for method, path in [("GET", "/status"), ("POST", "/feed/stop"), ("GET", "/nope"), ("GET", "")]:
            status, body = await ask(session, method, path, b"", Authorization="Bearer guess")
            assert status == 401
            assert "secret-token" not in str(body)
            assert "guess" not in str(body)
        async with session.get("/api/v1/status") as answer:
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert controls.calls == []

        right = {"Authorization": "Bearer secret-token"}
        assert (await ask(session, "POST", "/feed/stop", b"", **right))[0] == 200
    assert controls.calls == [("feed_stop",)]


async def test_a_web_page_can_do_nothing_on_loopback() -> None:
    """Forms, scripts of other sites, rebound names and preflights are refused before anything is done."""
    controls = FakeControls()
    async with serving(controls) as session:
        for headers in (
            {"Origin": "https://evil.example"},
            {"Host": "evil.example"},
            {"Content-Type": "text/plain"},
            {"Content-Type": "application/x-www-form-urlencoded"},
        ):
            status, _ = await ask(session, "POST", "/feed/stop", b"", **headers)
            assert status in (403, 415)
        preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
        async with session.options("/api/v1/feed/stop", headers=preflight) as answer:
            assert answer.status == 403
            assert not [name for name in answer.headers if name.startswith("Access-Control")]
    assert controls.calls == []


async def test_other_paths_are_not_found() -> None:
    """404 says where the list is."""
    async with serving(FakeControls()) as session:
        status, body = await ask(session, "GET", "/nope")
    assert (status, "/api/v1" in body["error"]) == (404, True)


async def test_a_port_that_is_taken_is_named_and_health_follows() -> None:
    """The start fails with the address; a server that does not listen is not healthy."""
    server = AdminServer(AdminConfig(port=0), FakeControls())
    assert not server.health().ok
    await server.start()
    assert server.health().ok
    second = AdminServer(AdminConfig(port=server.port), FakeControls())
    with pytest.raises(OSError, match="admin: cannot listen on"):
        await second.start()
    await server.stop()
    await server.stop()
    await second.stop()
    assert not server.health().ok
