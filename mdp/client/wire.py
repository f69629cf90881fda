"""Connecting, logging in, and JSON over one WebSocket, with errors in words."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import orjson

from mdp.client.errors import ClientError, Disconnected

SUBPROTOCOL = "mdp.v2"
MAX_MESSAGE_BYTES = 16 * 1024 * 1024  # a board of 500 rows has about 0.3 MB
HEARTBEAT_SECONDS = 25.0
_CLOSE_SECONDS = 2.0  # for the close that follows a refused login

Token = str | Callable[[], str | Awaitable[str]]


class Credentials:
    """A key or a token; a function that makes tokens is asked at each login."""

    def __init__(self, api_key: str, token: Token) -> None:
        self._api_key = api_key
        self._token = token

    def __repr__(self) -> str:
        return "Credentials(********)"

    @property
    def renewable(self) -> bool:
        """Whether the next login brings another token."""
        return callable(self._token)

    async def message(self) -> dict[str, Any] | None:
        """The `auth` to send; None where there is nothing to log in with."""
        if callable(self._token):
            token = self._token()
            return {"action": "auth", "token": await token if inspect.isawaitable(token) else token}
        if self._token:
            return {"action": "auth", "token": self._token}
        return {"action": "auth", "api_key": self._api_key} if self._api_key else None


class Wire:
    """One open connection that speaks JSON."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, url: str) -> None:
        self._socket = socket
        self._url = url

    @property
    def second(self) -> bool:
        """Whether the service chose version 2."""
        return self._socket.protocol == SUBPROTOCOL

    async def send(self, message: dict[str, Any]) -> None:
        """Send one message. Raises Disconnected."""
        try:
            await self._socket.send_str(orjson.dumps(message).decode())
        except (aiohttp.ClientError, OSError) as error:
            raise Disconnected(f"the connection ended: {error}") from None

    async def receive(self, timeout: float | None = None) -> Any:
        """The next message, decoded. Without a timeout it waits as long as the heartbeat is answered.

        Raises:
            Disconnected: The connection ended, or nothing came in time.
            ClientError: What came is not JSON.
        """
        try:
            async with asyncio.timeout(timeout):
                message = await self._socket.receive()
        except TimeoutError:
            raise Disconnected(f"{self._url} did not answer within {timeout:g} s") from None
        if message.type is not aiohttp.WSMsgType.TEXT:
            number = self._socket.close_code or 0
            code = f" with code {number}" if number else ""
            reason = (
                f" ({message.extra})" if message.type is aiohttp.WSMsgType.CLOSE and message.extra else ""
            )
            raise Disconnected(f"the service closed the connection{code}{reason}", number)
        try:
            return orjson.loads(message.data)
        except orjson.JSONDecodeError:
            raise ClientError(f"{self._url} sent text that is not JSON") from None

    async def close(self) -> None:
        """Say goodbye; at most a few seconds."""
        await self._socket.close()

    async def log_in(self, credentials: Credentials, timeout: float) -> None:
        """Send `auth`, where there is something to send, and wait for the answer.

        Raises:
            ClientError: The key or token was refused.
            Disconnected: No answer, or one that may be another one later.
        """
        try:
            message = await credentials.message()
        except Exception as error:  # of the user's function; its text may hold anything
            raise Disconnected(f"no token: {type(error).__name__}") from error
        if message is None:
            return
        await self.send(message)
        answer = await self.receive(timeout)
        status = answer.get("status") if isinstance(answer, dict) else None
        if status == "authorized":
            return
        if status == "error":  # the close that follows says whether to come back
            await self.receive(_CLOSE_SECONDS)
        what = "token" if "token" in message else "API key"
        detail = f": {answer['message']}" if isinstance(answer, dict) and answer.get("message") else ""
        raise ClientError(f"the service refused the {what}{detail}")


async def dial(
    session: aiohttp.ClientSession,
    url: str,
    credentials: Credentials,
    timeout: float,
    *,
    second: bool,
) -> Wire:
    """An open connection that is logged in.

    Args:
        session: To connect with.
        url: `ws://host:port/ws`.
        credentials: To log in with.
        timeout: For connecting, and for each answer, in seconds.
        second: Whether to ask for version 2; `Wire.second` tells the answer.

    Raises:
        ClientError: Refused; the same will be refused again.
        Disconnected: It did not work this time.
    """
    try:
        async with asyncio.timeout(timeout):
            socket = await session.ws_connect(
                url,
                heartbeat=HEARTBEAT_SECONDS,
                max_msg_size=MAX_MESSAGE_BYTES,
                protocols=(SUBPROTOCOL,) if second else (),
            )
    except aiohttp.InvalidURL:
        raise ClientError(f"{url} is not an address such as ws://127.0.0.1:4202/ws") from None
    except aiohttp.WSServerHandshakeError as error:
        reason = f"{url} answered {error.status} instead of opening a WebSocket"
        if 400 <= error.status < 500 and error.status != 429:
            raise ClientError(reason) from None
        raise Disconnected(reason) from None
    except TimeoutError:
        raise Disconnected(f"{url} did not answer within {timeout:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        cause = getattr(error, "os_error", error)
        reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise Disconnected(f"cannot connect to {url} ({reason}); is the service running there?") from None
    wire = Wire(socket, url)
    try:
        await wire.log_in(credentials, timeout)
    except BaseException:
        await wire.close()
        raise
    return wire
