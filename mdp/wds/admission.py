"""Which TCP connections are let in: decided when they are accepted, before a byte of them is read.

A refused connection costs an accept and a reset: no parser, no task, no answer. An answer would cost more
than the connection did, and a flood does not read it.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import cast

from mdp.wds.counters import WdsCounters
from mdp.wds.limits import Networks, address_of
from mdp.wds.turns import LEAVE, Turns

SPARE = 1_000  # connections above `max_clients`, for answers in words: "full", other addresses' first bytes
MAX_PENDING = 1_000  # connections that have not yet proved to be a client
HEADER_SECONDS = 10.0  # from the accept to the end of the request's headers; also between two requests
MAX_HEADERS = 64
MAX_HEADER_BYTES = 8_190  # of one field, or the request line


class Admission:
    """Counts connections in total and by address, and knows which have proved nothing yet.

    Of those, the oldest makes room when there are too many: a client is through in milliseconds, so the
    oldest are the ones that send their request byte by byte, or nothing.
    """

    def __init__(
        self,
        counters: WdsCounters,
        *,
        most: int,
        per_address: int,
        unlimited: Networks,
        most_pending: int = MAX_PENDING,
    ) -> None:
        """
        Args:
            counters: Told of refusals.
            most: Connections in total.
            per_address: Connections of one address (`address_of`); 0: any number.
            unlimited: Addresses that `per_address` does not hold for.
            most_pending: Connections that have not settled yet.
        """
        self._counters = counters
        self._most = most
        self._per_address = per_address
        self._unlimited = unlimited
        self._most_pending = most_pending
        self._open: dict[str, int] = {}  # address -> connections
        self._pending: dict[asyncio.BaseTransport, None] = {}  # oldest first
        self.total = 0

    def enter(self, transport: asyncio.Transport) -> bool:
        """Let a new connection in, or cut it; call `leave` for the former only."""
        address = peer_of(transport)
        if self.total >= self._most:
            reason = "connections"
        elif (
            self._per_address
            and self._open.get(address, 0) >= self._per_address
            and address not in self._unlimited
        ):
            reason = "address"
        else:
            self.total += 1
            self._open[address] = self._open.get(address, 0) + 1
            self._pending[transport] = None
            if len(self._pending) > self._most_pending:
                oldest = cast(asyncio.Transport, next(iter(self._pending)))
                del self._pending[oldest]
                self._counters.reject("pending")
                oldest.abort()
            return True
        self._counters.reject(reason)
        transport.abort()
        return False

    def settle(self, transport: asyncio.BaseTransport) -> None:
        """Note that a connection is a client: upgraded, and authorized where that is asked for."""
        self._pending.pop(transport, None)

    def leave(self, transport: asyncio.BaseTransport, address: str) -> None:
        """Forget a connection that ended."""
        self._pending.pop(transport, None)
        self.total -= 1
        left = self._open[address] - 1
        if left:
            self._open[address] = left
        else:
            del self._open[address]


def peer_of(transport: asyncio.BaseTransport) -> str:
    """What the other side's address counts as."""
    name = transport.get_extra_info("peername")
    return address_of(name[0]) if isinstance(name, tuple) and name else ""


class Gate(asyncio.Protocol):
    """The protocol of a connection that was just accepted: hands it on to aiohttp, or cuts it."""

    __slots__ = ("_admission", "_serve", "_turns")

    def __init__(self, admission: Admission, serve: Callable[[], asyncio.Protocol], turns: Turns) -> None:
        self._admission = admission
        self._serve = serve
        self._turns = turns

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Decide."""
        transport = cast(asyncio.Transport, transport)
        if transport.is_closing() or not self._admission.enter(transport):
            return
        protocol = _Counted(self._serve(), self._admission, transport, self._turns)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class _Counted(asyncio.Protocol):
    """Passes everything to aiohttp's protocol, and says when the connection has ended."""

    __slots__ = ("_address", "_admission", "_transport", "_turns", "data_received", "inner")

    def __init__(
        self, inner: asyncio.Protocol, admission: Admission, transport: asyncio.Transport, turns: Turns
    ) -> None:
        self.inner = inner
        self.data_received = inner.data_received  # type: ignore[method-assign]  # no call between
        self._admission = admission
        self._transport = transport
        self._turns = turns
        self._address = peer_of(transport)  # now: later the transport may know it no more

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass on."""
        self.inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count, then pass on: at once, or in turn where many end together."""
        self._admission.leave(self._transport, self._address)
        self._turns.do(LEAVE, functools.partial(self.inner.connection_lost, exc))

    def eof_received(self) -> bool | None:
        """Pass on."""
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        """Pass on."""
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on."""
        self.inner.resume_writing()
