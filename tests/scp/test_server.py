"""The control plane over HTTP: what it serves, and that it gives away nothing else."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path

import aiohttp
import pytest

import mdp.scp
from mdp.config import ScpConfig
from mdp.scp.server import ControlPlane

STATIC = Path(mdp.scp.__file__).parent / "static"
PATHS = ["/", *(f"/static/{path.name}" for path in STATIC.iterdir() if path.name != "index.html")]


class Served:
    """A control plane that runs, and a session to reach it with."""

    def __init__(self, plane: ControlPlane, session: aiohttp.ClientSession) -> None:
        self.plane = plane
        self.session = session

    async def get(self, path: str, method: str = "GET", **headers: str) -> tuple[aiohttp.ClientResponse, str]:
        """An answer and its text."""
        url = f"http://127.0.0.1:{self.plane.port}{path}"
        async with self.session.request(method, url, headers=headers, allow_redirects=False) as response:
            return response, await response.text()


@contextlib.asynccontextmanager
async def served(wds_port: int = 4202, **options: bool) -> AsyncIterator[Served]:
    """A control plane on a free port."""
    plane = ControlPlane(ScpConfig(port=0), wds_port=lambda: wds_port, **options)
    await plane.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Served(plane, session)
    finally:
        await plane.stop()


@pytest.mark.parametrize("path", PATHS)
async def test_every_file_of_the_page_is_served(path: str) -> None:
    """With its type, and without sniffing; a file that is added must be listed to be served."""
    async with served() as env:
        response, text = await env.get(path)
        assert response.status == 200
        name = "index.html" if path == "/" else path.rpartition("/")[2]
        assert text == (STATIC / name).read_text()
        expected = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        assert response.content_type == expected[name.rpartition(".")[2]]
        assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_the_page_learns_where_the_data_is() -> None:
    """The port that the service has now, and whether it wants a key; never a key."""
    async with served(wds_port=12_345, auth_required=True) as env:
        response, text = await env.get("/config.json")
        assert text == '{"wds_port":12345,"auth_required":true}'
        assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/", "/config.json", "/nothing", "/static/app.js"])
async def test_the_security_policy_is_on_every_answer(path: str) -> None:
    """Nothing inline, nothing foreign; connections to the page's own host and the data service only."""
    async with served(wds_port=4202) as env:
        response, _ = await env.get(path)
        policy = dict(
            part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert policy["connect-src"] == "'self' ws://127.0.0.1:4202 wss://127.0.0.1:4202"
        assert "unsafe" not in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize("host", ["[::1]:8000", "Market.example", "10.0.0.1:80"])
async def test_the_policy_follows_the_name_the_page_was_asked_by(host: str) -> None:
    """A page reached by another name finds the service under the same."""
    async with served() as env:
        response, _ = await env.get("/", Host=host)
        name = re.sub(r":\d+$", "", host)
        assert f"ws://{name}:4202 " in response.headers["Content-Security-Policy"]


@pytest.mark.parametrize("host", ["a; script-src *", "a b", "a/b", "", "[::1", "x" * 300])
async def test_a_host_that_is_none_is_refused(host: str) -> None:
    """It would be repeated in the policy."""
    async with served() as env:
        response, _ = await env.get("/", Host=host)
        assert response.status == 400
        assert "Content-Security-Policy" not in response.headers


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static//etc/passwd",
        "/index.html",
        "/.git/config",
    ],
)
async def test_nothing_else_is_served(path: str) -> None:
    """Paths do not reach the file system."""
    async with served() as env:
        reader_path = path
        response, text = await env.get(reader_path)
        assert response.status == 404
        assert text == "404 Not Found\n"


async def test_only_reading_is_allowed() -> None:
    """The page has nothing to change."""
    async with served() as env:
        response, _ = await env.get("/", method="POST")
        assert response.status == 405
        assert "GET" in response.headers["Allow"]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.handlers: list[str] = []
        self.inline = 0
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._script = tag in ("script", "style")
        for name, value in attrs:
            if name in ("src", "href"):
                self.urls.append(value or "")
            if name.startswith("on") or name == "style":
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.inline += bool(self._script and data.strip())
        self._script = False


def test_the_page_asks_for_nothing_foreign_and_has_nothing_inline() -> None:
    """It works without the internet, and under its own policy."""
    tags = _Tags()
    tags.feed((STATIC / "index.html").read_text())
    assert set(tags.urls) == set(PATHS[1:]) - {"/static/mdp-client.js", "/static/format.js"}
    assert tags.handlers == []
    assert tags.inline == 0
    for path in STATIC.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://", text), path
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(", text), path


async def test_origins_are_the_names_of_the_page() -> None:
    """For the data service's check: all loopback names, none while it does not listen."""
    plane = ControlPlane(ScpConfig(port=0), wds_port=lambda: 1)
    assert plane.origins() == set()
    await plane.start()
    port = plane.port
    assert plane.origins() == {f"http://{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]")}
    await plane.stop()
    assert plane.origins() == set()


async def test_listening_everywhere_the_origin_is_any_address_of_ours() -> None:
    """`*` for the check to fill in; a name of one's own stays itself."""
    plane = ControlPlane(ScpConfig(host="0.0.0.0", port=0, allow_anonymous=True), wds_port=lambda: 1)
    await plane.start()
    assert plane.origins() == {f"http://*:{plane.port}"}
    await plane.stop()


async def test_stop_is_safe_before_start_and_twice() -> None:
    """And health says whether the page can be loaded."""
    plane = ControlPlane(ScpConfig(port=0), wds_port=lambda: 1)
    await plane.stop()
    assert not plane.health().ok
    await plane.start()
    assert plane.health().ok
    await plane.stop()
    await plane.stop()
    assert not plane.health().ok


async def test_a_taken_port_is_an_error_at_once() -> None:
    """And leaves nothing running."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        plane = ControlPlane(ScpConfig(port=taken.getsockname()[1]), wds_port=lambda: 1)
        with pytest.raises(OSError, match="address already in use"):
            await plane.start()
        assert not plane.health().ok
