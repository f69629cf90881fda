"""A TCP proxy for tests: a network that is cut, or slow, between one process and a server."""

from __future__ import annotations

import asyncio

_CHUNK = 64 * 1024


class TcpProxy:
    """Listens on a free port of loopback and passes everything on. Use it as an async context manager.

    Attributes:
        delay_seconds: Each chunk waits so long, in either direction.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self.delay_seconds = 0.0
        self._target = port
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> TcpProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Nothing passes any more; connections stay open, as with a cable that was pulled."""
        self._open.clear()

    def mend(self) -> None:
        """All passes again, what was held back first."""
        self._open.set()

    def abort(self) -> None:
        """Reset all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, to_writer}
        ways = [
            asyncio.create_task(self._pass(reader, to_writer)),
            asyncio.create_task(self._pass(to_reader, writer)),
        ]
        self._tasks.update(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
            self._tasks.discard(way)
        for end in (writer, to_writer):
            end.transport.abort()
            self._writers.discard(end)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(_CHUNK):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                await self._open.wait()
                writer.write(chunk)
                await writer.drain()
        except OSError:
            return
