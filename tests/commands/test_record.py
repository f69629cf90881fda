"""`mdp record`, against a server with the admin API's three paths."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpServer

from mdp.commands.record import Recorder, RecordError

TOKEN = "t0ken-T0KEN"


class Admin:
    """The recording part of a running process."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.path = ""
        self.frames = 0
        self.error = ""

    async def start(self, request: web.Request) -> web.Response:
        """POST /api/v1/record/start"""
        self.calls.append("start")
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"error": "send Authorization"}, status=401)
        if self.path:
            return web.json_response({"error": f"a recording runs already: {self.path}"}, status=400)
        self.path = (await request.json())["path"]
        return web.json_response({"ok": True})

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/v1/status"""
        self.calls.append("status")
        self.frames += 10
        state = {"path": self.path, "frames": self.frames, "dropped": 1, "error": self.error}
        return web.json_response({"version": "1", "recording": state if self.path else None})

    async def stop(self, request: web.Request) -> web.Response:
        """POST /api/v1/record/stop"""
        self.calls.append("stop")
        assert request.content_type == "application/json", "the admin API accepts nothing else"
        self.path = ""
        return web.json_response({"ok": True})


@pytest.fixture
async def admin(aiohttp_server: AiohttpServer) -> tuple[Admin, str]:
    """A running admin API and its address."""
    api = Admin()
    application = web.Application()
    application.router.add_post("/api/v1/record/start", api.start)
    application.router.add_get("/api/v1/status", api.status)
    application.router.add_post("/api/v1/record/stop", api.stop)
    server = await aiohttp_server(application)
    return api, f"http://127.0.0.1:{server.port}/"


@pytest.fixture(autouse=True)
def _poll_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdp.commands.record._POLL_SECONDS", 0.001)


async def test_it_records_until_stopped(admin: tuple[Admin, str]) -> None:
    """Start with the path, progress meanwhile, stop at the end; the final state is returned."""
    api, url = admin
    stop, seen = asyncio.Event(), list[int]()

    def progress(status: dict[str, Any], elapsed: float) -> None:
        seen.append(status["frames"])
        if len(seen) == 3:
            stop.set()

    final = await Recorder(url, TOKEN).record(Path("/somewhere/a.frames.gz"), stop, progress)
    assert seen == [10, 20, 30]
    assert final == {"path": "/somewhere/a.frames.gz", "frames": 30, "dropped": 1, "error": ""}
    assert (api.calls[0], api.calls[-1]) == ("start", "stop")


async def test_a_cancelled_command_stops_the_recording(admin: tuple[Admin, str]) -> None:
    """Otherwise the process would write on until the disk is full."""
    api, url = admin
    started = asyncio.Event()
    recorder = Recorder(url, TOKEN)
    task = asyncio.create_task(
        recorder.record(Path("a.frames.gz"), asyncio.Event(), lambda status, elapsed: started.set())
    )
    async with asyncio.timeout(60):
        await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert api.calls[-1] == "stop"


async def test_a_recording_that_ended_by_itself_is_an_error(admin: tuple[Admin, str]) -> None:
    """A full disk is told, not taken for success, and the recording is cleared away."""
    api, url = admin
    api.error = "No space left on device"
    with pytest.raises(RecordError, match="No space left on device"):
        await Recorder(url, TOKEN).record(Path("a.frames.gz"), asyncio.Event(), lambda status, s: None)
    assert api.calls[-1] == "stop"


async def test_a_recording_that_somebody_else_stopped_is_an_error(admin: tuple[Admin, str]) -> None:
    """The command does not go on as if frames were still kept."""
    api, url = admin

    def progress(status: dict[str, Any], elapsed: float) -> None:
        api.path = "/another.frames.gz"

    with pytest.raises(RecordError, match="somebody else stopped"):
        await Recorder(url, TOKEN).record(Path("a.frames.gz"), asyncio.Event(), progress)
    assert "stop" not in api.calls, "the other recording goes on"


async def test_a_refused_token_is_told_without_it(admin: tuple[Admin, str]) -> None:
    """What to do is said, the token is not."""
    api, url = admin
    with pytest.raises(RecordError, match=r"answered 401: send Authorization; give the token") as caught:
        await Recorder(url, "wr0ng").record(
            Path("a.frames.gz"), asyncio.Event(), lambda status, elapsed: None
        )
    assert "wr0ng" not in str(caught.value)
    assert api.calls == ["start"]


async def test_a_second_recording_is_refused_and_stops_nothing(admin: tuple[Admin, str]) -> None:
    """The first one goes on."""
    api, url = admin
    api.path = "/first.frames.gz"
    with pytest.raises(RecordError, match="answered 400: a recording runs already"):
        await Recorder(url, TOKEN).record(Path("b.frames.gz"), asyncio.Event(), lambda status, elapsed: None)
    assert api.path == "/first.frames.gz"
    assert "stop" not in api.calls


async def test_nobody_there_asks_whether_mdp_runs(unused_tcp_port: int) -> None:
    """The likeliest reason is named."""
    recorder = Recorder(f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(RecordError, match="is `mdp run` running there"):
        await recorder.record(Path("a.frames.gz"), asyncio.Event(), lambda status, elapsed: None)
