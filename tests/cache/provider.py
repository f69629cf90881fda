"""A REST server on a loopback port that answers as a test wants it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer

Answer = bytes | int | web.StreamResponse
Responder = Callable[[web.Request], Awaitable[Answer]]


class Provider:
    """Answers each path with what `answers` holds for it; writes down every request.

    An answer is a body, a status, a list of such (one per request, the last one for ever) or a coroutine
    function of the request. The longest prefix of the path in `answers` counts; 404 for no prefix.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer | list[Answer] | Responder] = {}
        self.asked: list[str] = []  # path and query, in order of arrival
        self.keys: list[str] = []  # Authorization of each
        self.at_once = 0
        self.most_at_once = 0
        self.server: TestServer | None = None

    @property
    def url(self) -> str:
        """Its base URL."""
        assert self.server is not None
        return str(self.server.make_url("")).rstrip("/")

    def count(self, prefix: str) -> int:
        """Requests for paths that start so."""
        return sum(path.startswith(prefix) for path in self.asked)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        self.asked.append(request.raw_path)
        self.keys.append(request.headers.get("Authorization", ""))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            fitting = [prefix for prefix in self.answers if request.path.startswith(prefix)]
            if not fitting:
                return web.Response(status=404)
            answer = self.answers[max(fitting, key=len)]
            if isinstance(answer, list):
                answer = answer.pop(0) if len(answer) > 1 else answer[0]
            if callable(answer):
                answer = await answer(request)
        finally:
            self.at_once -= 1
        if isinstance(answer, int):
            return web.Response(status=answer)
        if isinstance(answer, bytes):
            return web.Response(body=answer, content_type="application/json")
        return answer


@asynccontextmanager
async def serving(provider: Provider) -> AsyncIterator[Provider]:
    """Start the provider on a free port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", provider.handle)
    provider.server = TestServer(app)
    await provider.server.start_server()
    try:
        yield provider
    finally:
        await provider.server.close()


async def hang(_request: web.Request) -> Answer:
    """Never answers."""
    await asyncio.sleep(3600)
    return 500


async def cut_off(request: web.Request) -> Answer:
    """Announces more than it sends, then closes."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"results":[')
    assert request.transport is not None
    request.transport.close()
    return response
