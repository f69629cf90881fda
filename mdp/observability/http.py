"""A small HTTP server as a stage: what metrics, admin API and control plane have in common."""

from __future__ import annotations

import os

from aiohttp import web

from mdp.stage import Health

#: For requests under way when the process stops; the whole process has 2 s to end.
SHUTDOWN_SECONDS = 1.0
#: A client that sends nothing keeps its connection this long.
KEEPALIVE_SECONDS = 15.0


class HttpServer:
    """Serves one aiohttp application on one address; port 0 picks a free one (see `port`). A stage."""

    def __init__(self, name: str, host: str, port: int, app: web.Application) -> None:
        self.name = name
        self.host = host
        self._wanted_port = port
        self._app = app
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def port(self) -> int:
        """The port it listens on; 0 while it does not."""
        return self._port

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: The address cannot be had; the message names it.
            RuntimeError: It was started before.
        """
        if self._runner is not None:
            raise RuntimeError(f"{self.name}: was already started; build a new one")
        self._runner = web.AppRunner(
            self._app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=KEEPALIVE_SECONDS,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self._wanted_port)
        try:
            await site.start()
        except OSError as exc:
            await self._runner.cleanup()
            # asyncio's own words name the address again; a name that does not resolve has a number below 0.
            number = exc.errno or 0
            reason = os.strerror(number).lower() if number > 0 else exc.strerror or str(exc)
            raise OSError(
                exc.errno, f"{self.name}: cannot listen on {self.host}:{self._wanted_port}: {reason}"
            ) from exc
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Close the port, give requests under way a second, then end. Safe to call twice."""
        self._port = 0
        if self._runner is not None:
            await self._runner.cleanup()

    def health(self) -> Health:
        """Whether it listens."""
        return Health(bool(self._port), f"listening on port {self._port}" if self._port else "not listening")
