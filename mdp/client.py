"""A small client of the Widget Data Service, for the terminal and for programs.

It speaks protocol version 1, where a payload does not name its feed. That is why each stream has
a connection of its own: what arrives on it belongs to the one feed it asked for.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # a board of 500 rows has about 0.3 MB
HEARTBEAT_SECONDS = 25.0
FIRST_DELAY_SECONDS = 0.25
MAX_DELAY_SECONDS = 10.0

_ANSWERS = frozenset({"authorized", "invalid key", "subscribed", "unsubscribed", "invalid action", "error"})


class ClientError(Exception):
    """The service refused, or could not be asked; trying the same again will not help."""


class Disconnected(Exception):
    """The connection failed or ended; trying again may help. The message says why."""


class WdsClient:
    """One user of a WDS. Used as an async context manager; streams run side by side."""

    def __init__(
        self,
        url: str,
        api_key: str = "",
        *,
        timeout_seconds: float = 10.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """
        Args:
            url: Of the endpoint, `ws://host:port/ws`.
            api_key: Sent first when not empty.
            timeout_seconds: For connecting, and for each answer.
            sleep: Waits between two attempts; replaced in tests.
        """
        self.url = url
        self._api_key = api_key
        self._timeout = timeout_seconds
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"WdsClient({self.url!r})"  # the key stays out

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, key: str, limit: int | None = None) -> Any:
        """The cached value of `key`: None where there is nothing, a list (newest first) for lists.

        Raises:
            ClientError: The key was refused, or the API key.
            Disconnected: No connection, or no answer in time.
        """
        request: dict[str, Any] = {"action": "get", "cache": key}
        if limit is not None:
            request["limit"] = limit
        socket = await self._connect()
        try:
            await self._send(socket, request)
            while True:
                answer = await self._receive(socket, self._timeout)
                if isinstance(answer, dict) and answer.get("cache") == key:
                    return answer.get("data")
                _raise_refusal(answer, key)
        finally:
            await socket.close()

    async def stream(
        self, feed: str, on_state: Callable[[str], None] = lambda state: None
    ) -> AsyncIterator[Any]:
        """Every payload of `feed` (wildcards allowed), over reconnects, until cancelled.

        What is published while the connection is down is not delivered later.

        Args:
            feed: As in the protocol, e.g. `scanners:top_gainers` or `quote:*`.
            on_state: Told in a few words whenever the connection changes.

        Raises:
            ClientError: The feed was refused, or the API key.
        """
        delay = FIRST_DELAY_SECONDS
        while True:
            try:
                socket = await self._connect()
                try:
                    await self._subscribe(socket, feed)
                    on_state("live")
                    delay = FIRST_DELAY_SECONDS
                    while True:
                        yield await self._receive(socket, None)
                finally:
                    await socket.close()
            except Disconnected as error:
                on_state(f"{error}; trying again")
                await self._sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, MAX_DELAY_SECONDS)

    async def _connect(self) -> aiohttp.ClientWebSocketResponse:
        """An open connection that is logged in where a key is given."""
        if self._session is None:
            raise RuntimeError("use the client as `async with WdsClient(...) as client`")
        try:
            async with asyncio.timeout(self._timeout):
                socket = await self._session.ws_connect(
                    self.url, heartbeat=HEARTBEAT_SECONDS, max_msg_size=MAX_MESSAGE_BYTES
                )
        except aiohttp.InvalidURL:
            raise ClientError(f"{self.url} is not an address such as ws://127.0.0.1:4202/ws") from None
        except aiohttp.WSServerHandshakeError as error:
            reason = f"{self.url} answered {error.status} instead of opening a WebSocket"
            if 400 <= error.status < 500 and error.status != 429:
                raise ClientError(reason) from None
            raise Disconnected(reason) from None
        except TimeoutError:
            raise Disconnected(f"{self.url} did not answer within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            cause = getattr(error, "os_error", error)
            reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            raise Disconnected(
                f"cannot connect to {self.url} ({reason}); is the service running there?"
            ) from None
        if self._api_key:
            try:
                await self._send(socket, {"action": "auth", "api_key": self._api_key})
                answer = await self._receive(socket, self._timeout)
                if not (isinstance(answer, dict) and answer.get("status") == "authorized"):
                    raise ClientError("the service refused the API key")
            except BaseException:
                await socket.close()
                raise
        return socket

    async def _subscribe(self, socket: aiohttp.ClientWebSocketResponse, feed: str) -> None:
        await self._send(socket, {"action": "subscribe", "feed": feed})
        answer = await self._receive(socket, self._timeout)
        if not (isinstance(answer, dict) and answer.get("status") == "subscribed"):
            _raise_refusal(answer, feed)
            raise ClientError(f"{self.url} does not speak this protocol")

    async def _send(self, socket: aiohttp.ClientWebSocketResponse, message: dict[str, Any]) -> None:
        try:
            await socket.send_str(orjson.dumps(message).decode())
        except (aiohttp.ClientError, OSError) as error:
            raise Disconnected(f"the connection ended: {error}") from None

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse, timeout: float | None) -> Any:
        """The next message, decoded. A timeout of None waits as long as the heartbeat is answered."""
        try:
            async with asyncio.timeout(timeout):
                message = await socket.receive()
        except TimeoutError:
            raise Disconnected(f"{self.url} did not answer within {timeout:g} s") from None
        if message.type is not aiohttp.WSMsgType.TEXT:
            code = f" with code {socket.close_code}" if socket.close_code else ""
            raise Disconnected(f"the service closed the connection{code}")
        try:
            return orjson.loads(message.data)
        except orjson.JSONDecodeError:
            raise ClientError(f"{self.url} sent text that is not JSON") from None


def _raise_refusal(answer: Any, what: str) -> None:
    """Raise if `answer` is the service's refusal of `what`."""
    if not isinstance(answer, dict) or answer.get("status") not in _ANSWERS:
        return
    if answer["status"] == "error":
        raise ClientError(f"{what} was refused: {answer.get('message') or answer.get('code')}")
    if answer["status"] in ("invalid action", "invalid key"):
        hint = "; the service wants an API key" if answer["status"] == "invalid key" else ""
        raise ClientError(f"{what} was refused: {answer['status']}{hint}")
