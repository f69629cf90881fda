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
        self.recording = False
        self.frames = 0
        self.fails_after = 1_000  # polls until recording ends by itself

    async def start(self, request: web.Request) -> web.Response:
        """POST /api/v1/record/start"""
        self.calls.append("start")
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"error": "unauthorized"}, status=401)
        if self.recording:
            return web.json_response({"error": "already recording"}, status=409)
        self.path, self.recording = (await request.json())["path"], True
        return web.json_response(self._status())

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/v1/record"""
        self.calls.append("status")
        self.frames += 10
        self.recording = self.recording and self.frames < self.fails_after * 10
        return web.json_response(self._status())

    async def stop(self, request: web.Request) -> web.Response:
        """POST /api/v1/record/stop"""
        self.calls.append("stop")
        self.recording = False
        return web.json_response(self._status())

    def _status(self) -> dict[str, Any]:
        state = {"recording": self.recording, "frames": self.frames, "bytes": self.frames * 100}
        return state if self.recording else state | {"error": "No space left on device"}


@pytest.fixture
async def admin(aiohttp_server: AiohttpServer) -> tuple[Admin, str]:
    """A running admin API and its address."""
    api = Admin()
    application = web.Application()
    application.router.add_post("/api/v1/record/start", api.start)
    application.router.add_get("/api/v1/record", api.status)
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
    assert api.path == "/somewhere/a.frames.gz"
    assert seen == [10, 20, 30]
    assert (final["frames"], final["bytes"]) == (30, 3_000)
    assert (api.calls[0], api.calls[-1]) == ("start", "stop")


async def test_a_cancelled_command_stops_the_recording(admin: tuple[Admin, str]) -> None:
    """Otherwise the process would write on until the disk is full."""
    api, url = admin
    started = asyncio.Event()
    recorder = Recorder(url, TOKEN)
    task = asyncio.create_task(
        recorder.record(Path("a.frames.gz"), asyncio.Event(), lambda status, elapsed: started.set())
    )
    async with asyncio.timeout(20):
        await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert api.calls[-1] == "stop"


async def test_a_recording_that_ended_by_itself_is_an_error(admin: tuple[Admin, str]) -> None:
    """A full disk is told, not taken for success."""
    api, url = admin
    api.fails_after = 2
    with pytest.raises(RecordError, match="No space left on device"):
        await Recorder(url, TOKEN).record(Path("a.frames.gz"), asyncio.Event(), lambda status, elapsed: None)


async def test_a_refused_token_is_told_without_it(admin: tuple[Admin, str]) -> None:
    """What to do is said, the token is not."""
    api, url = admin
    with pytest.raises(RecordError, match=r"answered 401: unauthorized; give the token") as caught:
        await Recorder(url, "wr0ng").record(
            Path("a.frames.gz"), asyncio.Event(), lambda status, elapsed: None
        )
    assert "wr0ng" not in str(caught.value)
    assert api.calls == ["start"]


async def test_a_second_recording_is_refused_and_stops_nothing(admin: tuple[Admin, str]) -> None:
    """The first one goes on."""
    api, url = admin
    api.recording = True
    with pytest.raises(RecordError, match="answered 409: already recording"):
        await Recorder(url, TOKEN).record(Path("b.frames.gz"), asyncio.Event(), lambda status, elapsed: None)
    assert api.recording
    assert "stop" not in api.calls


async def test_nobody_there_asks_whether_mdp_runs(unused_tcp_port: int) -> None:
    """The likeliest reason is named."""
    recorder = Recorder(f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(RecordError, match="is `mdp run` running there"):
        await recorder.record(Path("a.frames.gz"), asyncio.Event(), lambda status, elapsed: None)
