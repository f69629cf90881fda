"""A headless Chromium, spoken to by its DevTools protocol; for tests of what a visitor sees."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.required import find_program

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = find_program(*BROWSERS)
START_SECONDS = 30.0


class Page:
    """One tab. `complaints` holds what the console and the security policy objected to."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._reader = asyncio.create_task(self._read())
        self._loaded = asyncio.Event()
        self.complaints: list[str] = []

    async def _read(self) -> None:
        async for message in self._socket:
            body = message.json()
            if "id" in body:
                self._answers.pop(body["id"]).set_result(body)
            elif body["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif body["method"] == "Runtime.exceptionThrown":
                self.complaints.append(str(body["params"]["exceptionDetails"]))
            elif body["method"] == "Log.entryAdded" and body["params"]["entry"]["level"] == "error":
                self.complaints.append(str(body["params"]["entry"]))

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One DevTools command and its result."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        body = await asyncio.wait_for(answer, START_SECONDS)
        result: dict[str, Any] = body["result"]
        return result

    async def open(self, url: str, width: int = 1440, height: int = 1000) -> None:
        """Load an address in a window of this size."""
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        await asyncio.wait_for(self._loaded.wait(), START_SECONDS)

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until an expression is true; the test's own timeout bounds it."""
        async with asyncio.timeout(START_SECONDS):
            while not await self.evaluate(expression):  # noqa: ASYNC110 (nothing there to be told by)
                await asyncio.sleep(0.05)

    async def screenshot(self, path: Path) -> None:
        """What a visitor sees, as PNG."""
        shot = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))

    async def close(self) -> None:
        """Leave the tab to its browser's end."""
        self._reader.cancel()
        await self._socket.close()


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Page]:
    """A browser of its own with one tab; ends with the block."""
    assert CHROMIUM is not None
    process = await asyncio.create_subprocess_exec(
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        "--no-first-run", "--no-proxy-server", "--disable-background-networking", "--disable-extensions",
        f"--user-data-dir={profile}", "about:blank",
        stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        async with asyncio.timeout(START_SECONDS):
            while not (found := re.search(rb"ws://(\S+?)/devtools", await process.stderr.readline())):
                assert process.returncode is None
        drain = asyncio.create_task(process.stderr.read())
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{found[1].decode()}/json") as response:
                target = next(tab for tab in await response.json() if tab["type"] == "page")
            socket = await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
            page = Page(socket)
            yield page
            await page.close()
        drain.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
