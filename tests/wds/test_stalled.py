"""Clients that never read, with real sockets: they delay nobody, cost a bounded amount, and end."""

from __future__ import annotations

import asyncio
import socket

from mdp import feeds
from mdp.config import WdsConfig
from tests.wds.doubles import Running, receive, running, until

LIMIT = 64 * 1024
PAYLOAD = {"fill": "x" * 8_000}


class Stalled:
    """A subscriber by a bare socket with a small buffer, which reads nothing after the answers."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    @classmethod
    async def connect(cls, env: Running, *feed_names: str) -> Stalled:
        """Subscribe, read the answers, stall."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", env.service.port))
        request = (
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        await loop.sock_sendall(sock, request.encode())
        while not (await loop.sock_recv(sock, 65_536)).endswith(b"\r\n\r\n"):
            pass
        client = cls(sock)
        for name in feed_names:
            await client.send(f'{{"action":"subscribe","feed":"{name}"}}')
            assert b"subscribed" in await loop.sock_recv(sock, 65_536)
        return client

    async def send(self, text: str) -> None:
        """One text message with a mask of zeros; shorter than 126 bytes."""
        data = text.encode()
        assert len(data) < 126
        await asyncio.get_running_loop().sock_sendall(
            self.sock, bytes((0x81, 0x80 | len(data), 0, 0, 0, 0)) + data
        )

    async def read_until(self, mark: bytes) -> bytes:
        """Begin to read, up to a mark or the end."""
        data = b""
        async with asyncio.timeout(60):
            while mark not in data:
                try:
                    part = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 20)
                except ConnectionError:
                    return data
                if not part:
                    return data
                data += part
        return data

    def close(self) -> None:
        """Leave."""
        self.sock.close()


def waiting(env: Running) -> int:
    """Bytes that wait in the process for all clients together."""
    return sum(client.waiting_bytes for client in env.service._clients)


async def test_stalled_clients_of_states_delay_nobody_and_stay_bounded() -> None:
    """The healthy one gets everything while others do not read; these are not closed for states."""
    config = WdsConfig(client_buffer_bytes=LIMIT, tick_ms=1)
    async with running(config) as env:
        stalled = [await Stalled.connect(env, "scanners:top_gainers") for _ in range(5)]
        healthy = await env.subscriber("scanners:top_gainers", "alerts")
        for number in range(1_500):  # 12 MB for each: far more than the kernel's buffers take
            env.bus.publish(feeds.TOP_GAINERS, "", {"n": number, **PAYLOAD})
            env.bus.publish(feeds.ALERTS, "", number)
            while isinstance(found := await receive(healthy), dict):
                pass
            assert found == number
        assert waiting(env) <= 5 * (LIMIT + 9_000)
        counters = env.service.counters
        assert counters.slow_closes == 0
        assert counters.skipped > 0
        assert counters.clients == 6

        # Who reads again gets the newest value, without a new message.
        assert b'"n":1499' in await stalled[0].read_until(b'"n":1499')
        for client in stalled:
            client.close()


async def test_a_stalled_client_of_events_is_closed_and_cut() -> None:
    """It may not miss events, so past its limit it is closed; its memory is free soon after."""
    config = WdsConfig(client_buffer_bytes=LIMIT, tick_ms=1)
    async with running(config, close_seconds=0.1) as env:
        stalled = await Stalled.connect(env, "alerts")
        healthy = await env.subscriber("alerts")
        number = 0
        while not env.service.counters.slow_closes:
            assert waiting(env) <= 2 * LIMIT
            env.bus.publish(feeds.ALERTS, "", {"n": number, **PAYLOAD})
            assert (await receive(healthy))["n"] == number
            number += 1
        await until(lambda: env.service.counters.clients == 1)
        assert env.service.counters.aborted == 1
        assert waiting(env) == 0
        env.bus.publish(feeds.ALERTS, "", "on")
        assert await receive(healthy) == "on"
        stalled.close()


async def test_a_slow_client_that_reads_its_close_learns_why() -> None:
    """4008 and the advice come behind the events that it was still given, in order."""
    config = WdsConfig(client_buffer_bytes=LIMIT, tick_ms=1)
    async with running(config, close_seconds=20.0) as env:
        slow = await Stalled.connect(env, "alerts")
        healthy = await env.subscriber("alerts")
        while not env.service.counters.slow_closes:
            env.bus.publish(feeds.ALERTS, "", PAYLOAD)
            await receive(healthy)
        data = await slow.read_until(b"fewer feeds")
        assert b"\x0f\xa8too slow" in data
        slow.close()
        await until(lambda: env.service.counters.clients == 1)


async def test_a_client_that_asks_without_reading_is_not_answered_for_ever() -> None:
    """Its messages are read no further once its answers wait; others are served."""
    config = WdsConfig(client_buffer_bytes=LIMIT, tick_ms=1)
    async with running(config) as env:
        for _ in range(100):
            env.cache.push(feeds.HALTS, "", PAYLOAD)
        greedy = await Stalled.connect(env)
        healthy = await env.subscriber("alerts")
        for _ in range(200):  # 160 MB of answers
            await greedy.send('{"action":"get","cache":"halts"}')
        for number in range(50):
            env.bus.publish(feeds.ALERTS, "", number)
            assert await receive(healthy) == number
        assert waiting(env) <= LIMIT + 810_000
        assert env.service.counters.answers < 20
        greedy.close()


async def test_stop_does_not_wait_for_stalled_clients() -> None:
    """They are cut after the time for the close, all at once, and the healthy ones get theirs."""
    config = WdsConfig(client_buffer_bytes=LIMIT, tick_ms=1)
    async with running(config, close_seconds=0.2) as env:
        stalled = [await Stalled.connect(env, "scanners:top_gainers") for _ in range(10)]
        async with asyncio.timeout(60):
            while not all(client.dirty for client in env.service._clients):
                env.bus.publish(feeds.TOP_GAINERS, "", PAYLOAD)
                await asyncio.sleep(0.001)
        await env.service.stop()
        assert env.service.counters.clients == 0
        assert env.service.counters.aborted == 10
        for client in stalled:
            client.close()
