"""The connection of the official client: what `recv()` hands over, in which order, and when it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK

from mdp.listener.connection import MAX_QUEUE, MAX_QUEUE_BYTES, BurstConnection

Script = Callable[[ServerConnection], Awaitable[None]]


class Seen:
    """What the connection told."""

    def __init__(self) -> None:
        self.opened: list[BurstConnection] = []
        self.answers: list[bytes] = []


@asynccontextmanager
async def connected(
    script: Script, seen: Seen | None = None, begin: Sequence[str | list[str]] = ("greeting", "answer")
) -> AsyncIterator[BurstConnection]:
    """A connection to a server that greets, answers, and then runs the script."""
    seen = seen or Seen()

    async def handle(socket: ServerConnection) -> None:
        for message in begin:
            await socket.send(message)
        await script(socket)

    def make(protocol: ClientProtocol, **options: Any) -> BurstConnection:
        return BurstConnection(protocol, seen.opened.append, seen.answers.append, **options)

    async with serve(handle, "127.0.0.1", 0, close_timeout=0.5) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with connect(
            f"ws://127.0.0.1:{port}",
            create_connection=make,  # type: ignore[arg-type]  # called, whatever it is
            max_queue=MAX_QUEUE,
            compression=None,
            proxy=None,
            close_timeout=0.5,
        ) as connection:
            assert isinstance(connection, BurstConnection)
            yield connection


async def opening(connection: BurstConnection) -> list[Any]:
    """The two messages that the client reads itself."""
    return [await connection.recv(), await connection.recv()]


async def all_of(connection: BurstConnection) -> tuple[list[bytes], Exception]:
    """Every message up to the end of the connection, and how it ended."""
    messages: list[bytes] = []
    try:
        while True:
            messages += await connection.recv()
    except (ConnectionClosedOK, ConnectionClosedError) as exc:
        return messages, exc


async def test_the_first_two_messages_come_one_by_one_however_much_is_behind_them() -> None:
    """The client reads a greeting and an answer as text; data that came with them waits for its turn."""
    seen = Seen()

    async def script(socket: ServerConnection) -> None:
        for number in range(10):
            await socket.send(str(number))

    async with connected(script, seen) as connection:
        await asyncio.sleep(0.05)  # all of it is there
        assert await opening(connection) == ["greeting", "answer"]
        messages, _ = await all_of(connection)
    assert messages == [b"%d" % number for number in range(10)]
    assert seen.opened == [connection]
    assert seen.answers == [b"answer"]


async def test_an_opening_in_fragments_is_two_messages_as_well() -> None:
    """However the provider cuts them; what follows is data."""
    seen = Seen()

    async def script(socket: ServerConnection) -> None:
        await socket.send("data")

    async with connected(script, seen, [["gree", "", "ting"], ["an", "swer"]]) as connection:
        assert await opening(connection) == ["greeting", "answer"]
        assert (await all_of(connection))[0] == [b"data"]
    assert seen.answers == [b"answer"]


async def test_what_nobody_read_is_there_when_the_connection_is_over() -> None:
    """The client does not read on where it fails to send."""

    async def script(socket: ServerConnection) -> None:
        await socket.send("one")
        await socket.send("two")

    async with connected(script) as connection:
        await opening(connection)
        await connection.wait_closed()
        assert connection.rest() == [b"one", b"two"]
        assert connection.rest() == []


async def test_what_arrived_together_is_handed_over_together() -> None:
    """A thousand messages that wait are read in far fewer calls: that is what bursts are for."""
    total = 1_000

    async def script(socket: ServerConnection) -> None:
        for number in range(total):
            await socket.send(str(number))
        await socket.wait_closed()

    async with connected(script) as connection:
        await opening(connection)
        read, calls = 0, 0
        while read < total:
            await asyncio.sleep(0.01)
            burst = await connection.recv()
            assert burst
            read += len(burst)
            calls += 1
    assert calls < total / 10


@pytest.mark.parametrize("seed", range(6))
async def test_order_and_completeness_survive_cancelled_reads_and_fragments(seed: int) -> None:
    """Whole, fragmented, empty and binary messages at any pace; the reader gives up now and then."""
    chance = random.Random(seed)
    total = 400

    async def script(socket: ServerConnection) -> None:
        for number in range(total):
            text = str(number)
            kind = chance.random()
            if kind < 0.2:
                await socket.send([text[:1], text[1:], ""])
            elif kind < 0.3:
                await socket.send("")
                await socket.send(text.encode())
            else:
                await socket.send(text)
            if chance.random() < 0.2:
                await asyncio.sleep(chance.choice((0, 0, 0.001, 0.003)))

    async with connected(script) as connection:
        await opening(connection)
        messages: list[bytes] = []
        while True:
            try:
                messages += await asyncio.wait_for(connection.recv(), chance.choice((0.0005, 0.001, 0.1)))
            except TimeoutError:
                continue
            except ConnectionClosedOK:
                break
            if chance.random() < 0.1:
                await asyncio.sleep(0.002)
    assert messages == [b"%d" % number for number in range(total)]


@pytest.mark.parametrize(("total", "size"), [(3_000, 10_000), (100, 1_000_000)])
async def test_who_does_not_read_holds_the_sender_up(total: int, size: int) -> None:
    """Beyond so many frames or bytes the socket is not read, and TCP slows the sender; none is lost."""
    sent = 0

    async def script(socket: ServerConnection) -> None:
        nonlocal sent
        for number in range(total):
            await socket.send(f"{number:010d}" * (size // 10))
            sent += 1

    async with connected(script) as connection:
        await opening(connection)
        first = await connection.recv()
        before = -1
        while sent != before:  # until the sender stands still
            before = sent
            await asyncio.sleep(0.1)
        assert sent < total
        held = await connection.recv()
        assert sum(map(len, held)) <= MAX_QUEUE_BYTES + 2 * size
        messages, end = await all_of(connection)
    assert [int(message[:10]) for message in first + held + messages] == list(range(total))
    assert isinstance(end, ConnectionClosedOK)


async def test_the_end_comes_behind_the_last_message() -> None:
    """What came before an abrupt end is handed over, then the end is told, again and again."""

    async def script(socket: ServerConnection) -> None:
        for number in range(20):
            await socket.send(str(number))
        await asyncio.sleep(0.05)
        socket.transport.abort()

    async with connected(script) as connection:
        await opening(connection)
        await asyncio.sleep(0.1)
        messages, end = await all_of(connection)
        assert isinstance(end, ConnectionClosedError)
        with pytest.raises(ConnectionClosedError):
            await connection.recv()
    assert messages == [b"%d" % number for number in range(20)]


async def test_text_that_is_no_text_is_handed_over_as_it_came() -> None:
    """Octets that are no UTF-8 are the decoder's to reject: they cost one event, not the connection."""

    async def script(socket: ServerConnection) -> None:
        await socket.send(b"\xff\xfe", text=True)
        await socket.send("fine")

    async with connected(script) as connection:
        await opening(connection)
        messages, end = await all_of(connection)
    assert messages == [b"\xff\xfe", b"fine"]
    assert isinstance(end, ConnectionClosedOK)
