"""`mdp record`: asks a running mdp to write the provider's frames to a file, until told to stop.

The running process does the writing, because the provider allows one connection only.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from mdp.commands import admin_api

SUFFIX = ".frames.gz"
_POLL_SECONDS = 1.0


class RecordError(Exception):
    """Recording did not start, or ended early. The message says why and what to do."""


class Recorder:
    """Controls the recording of one running process through its admin API."""

    def __init__(self, admin_url: str, token: str = "") -> None:
        """
        Args:
            admin_url: `http://host:port` of the admin API.
            token: Sent as a bearer token when not empty.
        """
        self._url = admin_url.rstrip("/")
        self._token = token

    async def record(
        self, path: Path, stop: asyncio.Event, on_progress: Callable[[dict[str, Any], float], None]
    ) -> dict[str, Any]:
        """Record into `path` until `stop` is set.

        Args:
            path: Of the new file, as the running process sees it.
            stop: Ends the recording when set.
            on_progress: Told about once a second what is recorded, and for how many seconds.

        Returns:
            The last state before the end: `path`, `frames`, `dropped`. What arrives while it is being
            stopped is in the file, too.

        Raises:
            RecordError: The process could not be asked, refused, or stopped recording by itself.
        """
        async with admin_api.session_for(self._token) as session:
            await self._call(session, "POST", "/api/v1/record/start", {"path": str(path)})
            started = time.monotonic()
            ours = True
            try:
                while True:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), _POLL_SECONDS)
                    state = (await self._call(session, "GET", "/api/v1/status")).get("recording")
                    if not isinstance(state, dict) or state.get("path") != str(path):
                        ours = False  # and neither is a recording that runs by now
                        raise RecordError(f"somebody else stopped the recording of {path}")
                    if state.get("error"):
                        raise RecordError(f"mdp stopped recording: {state['error']}")
                    on_progress(state, time.monotonic() - started)
                    if stop.is_set():
                        break
            except BaseException:
                # A recording that nobody watches any more would go on until the disk is full.
                if ours:
                    with contextlib.suppress(RecordError):
                        await self._call(session, "POST", "/api/v1/record/stop", {})
                raise
            await self._call(session, "POST", "/api/v1/record/stop", {})
            return state

    async def _call(
        self, session: aiohttp.ClientSession, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            return await admin_api.call(session, self._url, method, path, body)
        except admin_api.AdminError as error:
            raise RecordError(str(error)) from None
