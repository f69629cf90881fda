"""The metrics and health server over loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from mdp.config import MetricsConfig
from mdp.observability.metrics import Metrics
from mdp.observability.server import MetricsServer
from mdp.stage import Health


class Process:
    """What the server asks about."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.live: Health | Exception = Health(True, "up")
        self.parts: list[tuple[str, Health]] | Exception = [("listener", Health(True, "live"))]

    def is_live(self) -> Health:
        if isinstance(self.live, Exception):
            raise self.live
        return self.live

    def is_ready(self) -> list[tuple[str, Health]]:
        if isinstance(self.parts, Exception):
            raise self.parts
        return self.parts


@asynccontextmanager
async def serving(process: Process) -> AsyncIterator[tuple[MetricsServer, aiohttp.ClientSession]]:
    """A started server and a client that knows its address."""
    server = MetricsServer(
        MetricsConfig(port=0), process.metrics, live=process.is_live, ready=process.is_ready
    )
    await server.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
            yield server, session
    finally:
        await server.stop()


async def test_metrics_are_served_in_the_text_format() -> None:
    """What the metrics render is what Prometheus reads."""
    process = Process()
    process.metrics.gauges("mdp_clients", "Clients.", (), lambda: {(): 3})
    async with serving(process) as (_, session), session.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.content_type == "text/plain"
        assert "mdp_clients 3.0" in await answer.text()


async def test_healthz_says_whether_to_restart() -> None:
    """200 while the process works, 503 when it does not, each with the reason."""
    process = Process()
    async with serving(process) as (_, session):
        async with session.get("/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"ok": True, "detail": "up"})
        process.live = Health(False, "loop held")
        async with session.get("/healthz") as answer:
            assert (answer.status, await answer.json()) == (503, {"ok": False, "detail": "loop held"})


async def test_readyz_is_ready_only_when_every_part_is() -> None:
    """One part that is not ready makes 503, and the answer lists all parts with their detail."""
    process = Process()
    async with serving(process) as (_, session):
        async with session.get("/readyz") as answer:
            assert answer.status == 200
        process.parts = [("listener", Health(True, "live")), ("reference", Health(False, "warming up 3/32"))]
        async with session.get("/readyz") as answer:
            assert answer.status == 503
            assert await answer.json() == {
                "ready": False,
                "parts": [
                    {"name": "listener", "ok": True, "detail": "live"},
                    {"name": "reference", "ok": False, "detail": "warming up 3/32"},
                ],
            }


async def test_a_check_that_raises_is_not_healthy_and_tells_nothing() -> None:
    """A failing probe answers 503 without the exception's text."""
    process = Process()
    process.live = process.parts = RuntimeError("secret-key-123")
    async with serving(process) as (_, session):
        for path in ("/healthz", "/readyz"):
            async with session.get(path) as answer:
                assert answer.status == 503
                assert "secret" not in await answer.text()


async def test_a_scrape_that_fails_is_one_line() -> None:
    """An error while rendering answers 500 without a trace."""
    process = Process()

    def fail() -> bytes:
        raise RuntimeError("secret-key-123")

    process.metrics.render = fail  # type: ignore[method-assign]
    async with serving(process) as (_, session), session.get("/metrics") as answer:
        assert answer.status == 500
        text = await answer.text()
        assert "secret" not in text
        assert text.count("\n") == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
async def test_only_get_is_allowed(method: str) -> None:
    """Everything else is 405 and names what is allowed."""
    async with serving(Process()) as (_, session):
        for path in ("/metrics", "/healthz", "/readyz"):
            async with session.request(method, path) as answer:
                assert answer.status == 405
                assert answer.headers["Allow"] == "GET"


@pytest.mark.parametrize("path", ["/", "/metrics/", "/api/v1/status", "/../etc/passwd", "/%00"])
async def test_other_paths_are_not_found_in_one_line(path: str) -> None:
    """404 says what there is."""
    async with serving(Process()) as (_, session), session.get(path) as answer:
        assert answer.status == 404
        assert await answer.text() == "not found; here are /metrics /healthz /readyz\n"


async def test_a_port_that_is_taken_is_named() -> None:
    """The start fails with the address in the message, and leaves nothing behind."""
    async with serving(Process()) as (server, _):
        second = MetricsServer(
            MetricsConfig(port=server.port), Metrics(), live=Process().is_live, ready=Process().is_ready
        )
        with pytest.raises(OSError, match=rf"metrics: cannot listen on 127\.0\.0\.1:{server.port}") as failed:
            await second.start()
        assert str(failed.value).count(str(server.port)) == 1
        assert str(failed.value).endswith("address already in use")
        assert not second.health().ok
        await second.stop()


async def test_health_follows_the_port_and_stop_frees_it() -> None:
    """Before start and after stop it does not listen; stop may come twice and before start."""
    server = MetricsServer(MetricsConfig(port=0), Metrics(), live=Process().is_live, ready=Process().is_ready)
    assert not server.health().ok
    await server.stop()

    await server.start()
    port = server.port
    assert server.health().ok
    assert str(port) in server.health().detail
    with pytest.raises(RuntimeError, match="already started"):
        await server.start()
    await server.stop()
    await server.stop()

    assert not server.health().ok
    with pytest.raises(OSError, match=r".*"):
        await asyncio.open_connection("127.0.0.1", port)
