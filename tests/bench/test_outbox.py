"""What waits to be sent on one connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from mdp.bench.outbox import Outbox


class Clock:
    """Nanoseconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
    yield ours, theirs
    ours.close()
    theirs.close()


async def read(sock: socket.socket, count: int) -> bytes:
    def all_of_it() -> bytes:
        found = b""
        while len(found) < count:
            found += sock.recv(count - len(found))
        return found

    return await asyncio.to_thread(all_of_it)


async def test_bytes_go_out_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    """What fits the kernel goes at once and nothing waits."""
    outbox = Outbox(pair[0], asyncio.get_running_loop())
    for piece in (b"a", b"bc", b"d"):
        outbox.put(piece, 0)

    assert outbox.flush()

    assert pair[1].recv(100) == b"abcd"
    assert (outbox.waiting_bytes, outbox.waited_ns, outbox.most_bytes) == (0, 0, 0)


async def test_what_the_kernel_does_not_take_waits_and_follows(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """A reader that comes late gets every byte in order; then room is announced once."""
    rooms: list[int] = []
    clock = Clock()
    outbox = Outbox(pair[0], asyncio.get_running_loop(), clock=clock)
    outbox.set_room(lambda: rooms.append(outbox.waiting_bytes))
    sent = b"".join(number.to_bytes(4, "big") * 5_000 for number in range(30))
    for at in range(0, len(sent), 20_000):
        outbox.put(sent[at : at + 20_000], clock.now)

    assert not outbox.flush()
    clock.now += 500
    assert outbox.waited_ns == 500
    assert 0 < outbox.waiting_bytes < len(sent)

    assert await read(pair[1], len(sent)) == sent
    await asyncio.sleep(0.01)
    assert rooms == [0]
    assert outbox.most_bytes > 0


async def test_age_is_counted_from_when_bytes_were_due(pair: tuple[socket.socket, socket.socket]) -> None:
    """Lateness of the sender itself counts as waiting, so overload cannot hide before the buffer."""
    clock = Clock()
    outbox = Outbox(pair[0], asyncio.get_running_loop(), clock=clock)
    outbox.put(b"x" * 1_000_000, clock.now - 300)
    outbox.flush()

    assert outbox.waited_ns == 300
    assert outbox.longest_ns == 300
    outbox.close()


async def test_a_dead_connection_is_an_error_not_a_wait(pair: tuple[socket.socket, socket.socket]) -> None:
    """Nothing is kept for a peer that is gone."""
    outbox = Outbox(pair[0], asyncio.get_running_loop())
    pair[1].close()
    outbox.put(b"x", 0)

    outbox.flush()

    assert isinstance(outbox.error, OSError)
    assert outbox.waiting_bytes == 0
