"""Connections to Redis whose failures are Redis's errors, whatever the event loop raises.

uvloop answers a write to a transport that was closed a moment ago with a `RuntimeError`, where asyncio's own
loop drops it. The client passes that on, and a task that is ready for a lost Redis would end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError

_WORDS = "the connection was closed"


class _Closing(AbstractConnection):
    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            raise RedisConnectionError(_WORDS) from error

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except RuntimeError as error:
            raise RedisConnectionError(_WORDS) from error


class PlainConnection(_Closing, Connection):
    """Over TCP."""


class TlsConnection(_Closing, SSLConnection):
    """Over TCP and TLS."""


class SocketConnection(_Closing, UnixDomainSocketConnection):
    """Over a socket of the file system."""


class MasterConnection(_Closing, SentinelManagedConnection):
    """Over TCP, to whom sentinels name."""


class TlsMasterConnection(_Closing, SentinelManagedSSLConnection):
    """Over TCP and TLS, to whom sentinels name."""
