"""When the pump sends, apart from any platform: over a pair of sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from mdp.bench.frames import FrameOptions, FrameSource
from mdp.bench.outbox import Outbox
from mdp.bench.pump import Pump
from mdp.bench.wire import FrameReader

BASE_MS = 1_773_153_000_000


class Line:
    """A pump and the other end of its connection."""

    def __init__(self, pump: Pump, outbox: Outbox, theirs: socket.socket, cuts: list[str]) -> None:
        self.pump, self.outbox, self.theirs, self.cuts = pump, outbox, theirs, cuts
        self._reader = FrameReader()

    async def frames(self, count: int) -> list[list[dict[str, Any]]]:
        """The next frames, decoded."""
        found: list[list[dict[str, Any]]] = []
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(60):
            while len(found) < count:
                data = await loop.sock_recv(self.theirs, 1 << 16)
                found += [json.loads(message.payload) for message in self._reader.feed(data)]
        return found


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    cuts: list[str] = []
    source = FrameSource(FrameOptions(symbols=50, events_per_frame=10), pool_events=500)
    pump = Pump(source, base_ms=BASE_MS, slow_bytes=100_000, slow_seconds=0.3, cut=cuts.append)
    outbox = Outbox(ours, asyncio.get_running_loop(), room=pump.room)
    pump.attach(outbox)
    yield Line(pump, outbox, theirs, cuts)
    pump.abandon()
    outbox.close()
    ours.close()
    theirs.close()


def market_ms(frame: list[dict[str, Any]]) -> int:
    return int(frame[0].get("t") or frame[0]["s"])


async def test_nobody_subscribed_is_an_error() -> None:
    """A phase cannot begin without a connection."""
    source = FrameSource(FrameOptions(symbols=5), pool_events=100)
    pump = Pump(source, base_ms=BASE_MS, slow_bytes=1, slow_seconds=1, cut=lambda why: None)

    with pytest.raises(RuntimeError, match="nobody"):
        pump.closed(0)


async def test_closed_loop_market_time_goes_as_at_100_000_events_a_second(line: Line) -> None:
    """Ten frames of ten events make a millisecond."""
    line.pump.closed(window_events=200)

    times = [market_ms(frame) for frame in await line.frames(20)]

    assert times == sorted(times)
    assert times[19] - times[0] == 1 or times[19] - times[0] == 2
    assert line.pump.sent.events == 200


async def test_credit_counts_from_the_start_and_never_backwards(line: Line) -> None:
    """An old credit that comes late opens nothing."""
    line.pump.closed(window_events=50)
    await line.frames(5)
    line.pump.credit(30)
    await line.frames(3)
    line.pump.credit(10)
    await asyncio.sleep(0.02)

    assert line.pump.sent.events == 80


async def test_without_a_window_the_socket_alone_holds_it_back(line: Line) -> None:
    """It stops when the kernel is full, and goes on as soon as somebody reads."""
    line.pump.closed(window_events=0)
    await asyncio.sleep(0.05)
    stuck = line.pump.sent.frames
    await asyncio.sleep(0.05)

    assert line.pump.sent.frames == stuck > 0
    assert line.outbox.waiting_bytes > 0
    await line.frames(stuck)
    assert line.pump.sent.frames > stuck


async def test_a_pause_is_over_when_everything_is_handed_over(line: Line) -> None:
    """Then the count is what the reader gets, to the frame."""
    line.pump.closed(window_events=0)
    await asyncio.sleep(0.02)
    paused = line.pump.pause()
    assert not paused.done()
    sent = line.pump.sent.frames

    received = await line.frames(sent)
    await asyncio.wait_for(paused, 60)

    assert len(received) == sent == line.pump.sent.frames


async def test_open_loop_sends_the_asked_number_of_frames_in_the_asked_time(line: Line) -> None:
    """2,000 events/s for 0.2 s are 40 frames, none before it was due."""
    started = time.monotonic()
    done = line.pump.open(2_000, 0.2)

    frames = await line.frames(40)
    await asyncio.wait_for(done, 60)

    assert time.monotonic() - started >= 0.195  # the last is due after 39 of 40 intervals
    assert line.pump.sent.frames == len(frames) == 40
    assert line.pump.lateness.count == 40


async def test_age_is_the_time_since_a_frame_was_due(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frame's market time alone tells it; what is older than the phase has no age."""
    done = line.pump.open(1_000, 0.05)
    frames = await line.frames(5)
    await done
    first, last = market_ms(frames[0]), market_ms(frames[-1])
    now = time.monotonic_ns()
    monkeypatch.setattr("mdp.bench.pump.time", SimpleNamespace(monotonic_ns=lambda: now))
    older, newer = line.pump.age_ms(first), line.pump.age_ms(last)

    assert older is not None
    assert newer is not None
    assert last - first == 40
    assert older - newer == pytest.approx(40)
    assert newer >= 0
    assert line.pump.age_ms(first - 1) is None


async def test_the_slow_consumer_rule_counts_bytes(line: Line) -> None:
    """More than the limit waits: the phase ends at once and the cut says how much."""
    done = line.pump.open(500_000, 20)

    await asyncio.wait_for(done, 60)

    assert len(line.cuts) == 1
    assert "bytes" in line.cuts[0]
    assert line.outbox.waiting_bytes > 100_000


async def test_the_slow_consumer_rule_counts_seconds() -> None:
    """A trickle that nobody reads is cut for its age, long before its bytes."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    cuts: list[str] = []
    source = FrameSource(FrameOptions(symbols=50, events_per_frame=10), pool_events=500)
    pump = Pump(source, base_ms=BASE_MS, slow_bytes=1 << 30, slow_seconds=0.1, cut=cuts.append)
    outbox = Outbox(ours, asyncio.get_running_loop(), room=pump.room)
    pump.attach(outbox)

    await asyncio.wait_for(pump.open(20_000, 20), 60)

    assert len(cuts) == 1
    assert 0 < outbox.waiting_bytes < 10_000_000
    outbox.close()
    ours.close()
    theirs.close()
