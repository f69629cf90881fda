"""The service under attack, in a process of its own: who is honest is served on, and memory is bounded.

The variants of `make test` take a few seconds each; the long ones (`-m slow -s`) print what an honest client
felt.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from tests.wds.wire import TEXT, Wire

MB = 1024 * 1024
KEY = "an-honest-key"
ATTACKER = "127.0.0.2"  # limits are by address: the honest client has another one

# Every address is limited, as one from outside is.
OPEN: dict[str, Any] = {"unlimited_addresses": []}
LOCKED: dict[str, Any] = {**OPEN, "auth_enabled": True, "api_keys": [KEY], "keys_path": ""}


class Server:
    """The service's process."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    async def ask(self) -> dict[str, Any]:
        """What it has counted, and its memory."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        return dict(await _line(self._process))


async def _line(process: asyncio.subprocess.Process) -> Any:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return json.loads(await process.stdout.readline())


@contextlib.asynccontextmanager
async def served(config: dict[str, Any], **options: Any) -> AsyncIterator[Server]:
    """A service, and the end of it; it must have nothing to complain about."""
    with tempfile.TemporaryFile() as errors:  # a pipe would be full if there are many, and block the service
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.integration.wds_process"),
            json.dumps({"config": config, **options}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
        try:
            yield Server(process, await _line(process))
        finally:
            await process.communicate(b"")  # without an input it would not be told of the end
            errors.seek(0)
            complaints = errors.read(3_000).decode()
    assert not complaints
    assert process.returncode == 0


class Honest:
    """A client that reads all the time and notes how late events are."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.numbers: list[int] = []
        self.late_ms: list[float] = []
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, server: Server, *, key: str = "") -> Honest:
        """Subscribed to events, authorized where a key is given."""
        wire = await Wire.connect(server.port)
        if key:
            wire.say(action="auth", api_key=key)
            assert (await wire.hear()).json() == {"status": "authorized"}
        wire.say(action="subscribe", feed="alerts")
        assert (await wire.hear()).json()["status"] == "subscribed"
        return cls(wire)

    async def _read(self) -> None:
        while True:
            heard = await self._wire.hear()
            if heard.opcode == TEXT:
                event = heard.json()
                self.numbers.append(event["n"])
                self.late_ms.append((time.monotonic_ns() - event["t"]) / 1e6)
            else:
                self._wire.send(b"\x8a\x80\0\0\0\0")  # a pong

    async def feel(self, seconds: float) -> float:
        """The 99th percentile of the next seconds, ms."""
        self.late_ms.clear()
        await asyncio.sleep(seconds)
        return self.p99()

    async def hear_some(self) -> None:
        """Wait for some events; 20 s at most."""
        async with asyncio.timeout(60):
            while len(self.numbers) < 3:  # noqa: ASYNC110 (a list has nobody to tell)
                await asyncio.sleep(0.01)

    def p99(self) -> float:
        """Of what was late since the last `feel`."""
        return statistics.quantiles(self.late_ms, n=100)[98]

    async def leave(self) -> None:
        """Stop reading. What was read had no hole."""
        assert not self._task.done(), self._task
        self._task.cancel()
        await asyncio.wait({self._task})
        await self._wire.close()
        assert self.numbers == list(range(self.numbers[0], self.numbers[0] + len(self.numbers)))


class Outcome(msgspec.Struct):
    """What an attack brought about."""

    seen: dict[str, int]  # by the attacker
    before_ms: float  # p99 of the honest client
    during_ms: float
    at_rest: dict[str, Any]
    during: list[dict[str, Any]]  # the server's figures, every quarter of a second
    after: dict[str, Any]

    @property
    def most_grown(self) -> int:
        """Bytes of memory above those at rest."""
        return self.most("rss") - int(self.at_rest["rss"])

    def most(self, name: str) -> int:
        """The largest value of a figure."""
        return max(int(figures[name]) for figures in self.during)

    def __str__(self) -> str:
        counters = self.after["counters"]
        return (
            f"p99 {self.before_ms:.1f} -> {self.during_ms:.1f} ms; loop late {self.most('late_ms')} ms; "
            f"RSS {self.at_rest['rss'] / MB:.0f} -> {(self.at_rest['rss'] + self.most_grown) / MB:.0f} MB; "
            f"connections {self.most('connections')} at most, {self.after['connections']} after; "
            f"attacker {self.seen}; rejected {counters['rejected']}, denied {counters['logins_denied']}, "
            f"closed {counters['closed']}, slow {counters['slow_closes']}, "
            f"no pong {counters['pong_timeouts']}, aborted {counters['aborted']}"
        )


async def attacked(server: Server, name: str, *, rest: float, key: str = "", **options: Any) -> Outcome:
    """Attack while an honest client listens, then see that another one can connect.

    Args:
        server: The one that is attacked.
        name: The attack.
        rest: Seconds for the figures before.
        key: Of the honest clients.
        options: Of the attack.
    """
    honest = await Honest.connect(server, key=key)
    before_ms = await honest.feel(rest)
    at_rest = await server.ask()
    honest.late_ms.clear()
    attacker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.wds_attacks", name, str(server.port), json.dumps(options)),
        stdout=asyncio.subprocess.PIPE,
    )
    during = []
    reading = asyncio.create_task(attacker.communicate())
    while not reading.done():
        await asyncio.wait({reading}, timeout=0.25)
        during.append(await server.ask())
        if len(during) % 4 == 0:  # somebody new is let in meanwhile
            newcomer = await Honest.connect(server, key=key)
            await newcomer.hear_some()
            await newcomer.leave()
    during_ms = honest.p99()
    output, _ = await reading
    assert attacker.returncode == 0
    late = await Honest.connect(server, key=key)
    await late.hear_some()
    await late.leave()
    await honest.leave()
    after = await server.ask()
    async with asyncio.timeout(60):
        while after["connections"]:
            await asyncio.sleep(0.05)
            after = await server.ask()
    assert after["ok"]
    return Outcome(json.loads(output), before_ms, during_ms, at_rest, during, after)


def short_and_long(short: Any, long: Any) -> pytest.MarkDecorator:
    """A test's size: for `make test`, and for figures."""
    return pytest.mark.parametrize(
        "size", [pytest.param(short, id="short"), pytest.param(long, id="long", marks=pytest.mark.slow)]
    )


@short_and_long((1.5, 100, 0.4), (15.0, 900, 2.0))
async def test_requests_byte_by_byte_are_cut_and_others_served(size: tuple[float, int, float]) -> None:
    """Slowloris: each connection is cut when the time for headers is over, however it drips."""
    seconds, connections, header_seconds = size
    async with served(OPEN, times={"header_seconds": header_seconds}) as server:
        outcome = await attacked(
            server, "slowloris", rest=0.5, seconds=seconds, connections=connections, source=ATTACKER
        )
    print(f"\nslowloris: {outcome}")
    rounds = int(seconds / (header_seconds + 1.0))
    assert outcome.seen["cut"] >= connections * max(1, rounds // 2)
    assert outcome.most("connections") <= connections + 10
    assert outcome.most_grown < 10 * MB + connections * 40_000


@short_and_long((2.0, 50, 0.3), (20.0, 500, 3.0))
async def test_clients_that_vanish_without_a_word_are_given_up(size: tuple[float, int, float]) -> None:
    """Half-open: no FIN, no pong. What waits for them stays within their limits until they are cut."""
    seconds, connections, pong_seconds = size
    limit = 64 * 1024
    times = {"ping_seconds": pong_seconds, "pong_seconds": pong_seconds, "close_seconds": 0.2}
    async with served({**OPEN, "client_buffer_bytes": limit}, times=times, padding=500) as server:
        outcome = await attacked(
            server,
            "half_open",
            rest=0.5,
            seconds=seconds,
            connections=connections,
            feeds=["scanners:top_gainers", "quote:*", "alerts"],
            source=ATTACKER,
        )
    print(f"\nhalf-open: {outcome}")
    assert outcome.seen["opened"] == connections
    # All but the honest ones are gone while the attacker still holds his ends.
    assert outcome.during[-1]["connections"] <= 2
    counters = outcome.after["counters"]
    assert counters["pong_timeouts"] + counters["slow_closes"] == connections
    assert outcome.most("most_waiting") <= limit + 8_192
    assert outcome.most_grown < 10 * MB + connections * (limit + 40_000)


@pytest.mark.parametrize(
    ("size", "data", "keep_seconds"),
    [
        (1.0, "", 0.5),
        (1.0, "upgrade", 0.2),
        pytest.param(10.0, "", 0.4, marks=pytest.mark.slow),
        pytest.param(10.0, "get", 0.2, marks=pytest.mark.slow),
        pytest.param(10.0, "upgrade", 0.2, marks=pytest.mark.slow),
        pytest.param(10.0, "upgrade", 2.0, marks=pytest.mark.slow),
    ],
)
async def test_a_flood_of_connections_leaves_others_served(
    size: float, data: str, keep_seconds: float
) -> None:
    """2,000 a second that say nothing, ask something, or become clients; some stay for a while."""
    async with served(OPEN) as server:
        outcome = await attacked(
            server,
            "flood",
            rest=0.5,
            seconds=size,
            per_second=2_000,
            data=data,
            keep_seconds=keep_seconds,
            source=ATTACKER,
        )
    print(f"\nflood of {data or 'silence'!r} for {keep_seconds} s: {outcome}")
    assert outcome.most("connections") <= 1_000 + 10
    assert outcome.most_grown < 60 * MB


@short_and_long((1.5, 5), (10.0, 50))
async def test_who_guesses_keys_learns_nothing_and_harms_nobody(size: tuple[float, int]) -> None:
    """After five failures an address waits; the honest one, from elsewhere, logs in at once."""
    seconds, at_once = size
    async with served(LOCKED) as server:
        outcome = await attacked(
            server, "guess", rest=0.5, key=KEY, seconds=seconds, at_once=at_once, source=ATTACKER
        )
    print(f"\nguessing: {outcome}")
    denied = outcome.after["counters"]["logins_denied"]
    assert "authorized" not in outcome.seen
    assert denied["key"] <= 5 + 5  # free ones, then one after 1, 2, 4, ... seconds
    assert denied["throttled"] > denied["key"]
    assert outcome.most_grown < 20 * MB


@pytest.mark.parametrize("loop", ["uvloop", pytest.param("asyncio", marks=pytest.mark.slow)])
@pytest.mark.parametrize("feeds", [["alerts"], ["scanners:top_gainers", "quote:*"]], ids=["events", "states"])
@short_and_long((2.0, 10, 60_000, 256 * 1024), (12.0, 200, 30_000, MB))
async def test_a_stalled_client_costs_its_limit_at_most(
    feeds: list[str], loop: str, size: tuple[float, int, int, int]
) -> None:
    """Who reads nothing has at most the limit waiting in the process: of events it is closed, of states not.

    Both what the transports say waits, kernel's buffers apart, and what the process really takes.
    """
    seconds, connections, padding, limit = size
    config = {**OPEN, "client_buffer_bytes": limit}
    # Silence is no reason to close anybody here: only what waits is.
    times = {"ping_seconds": 600.0}
    async with served(config, times=times, padding=padding, loop=loop) as server:
        outcome = await attacked(
            server,
            "half_open",
            rest=0.5,
            seconds=seconds,
            connections=connections,
            feeds=feeds,
            source=ATTACKER,
        )
    each = outcome.most_grown / connections
    print(
        f"\nstalled, {feeds}, {loop}: {outcome.most('most_waiting') / 1024:.0f} KiB waiting at most for one "
        f"of {limit / 1024:.0f}, {each / 1024:.0f} KiB of memory each; {outcome}"
    )
    counters = outcome.after["counters"]
    closes = connections if feeds == ["alerts"] else 0
    assert counters["slow_closes"] == closes
    # A close frame comes on top. Who had nothing waiting is written all messages of a tick, however many; its
    # last ones may have come after they were counted.
    tick = (outcome.most("most_due") + 2) * (padding + 256)
    assert limit // 4 < outcome.most("most_waiting") <= max(limit + 256, tick)
    assert outcome.most_grown <= connections * 1.25 * limit + 64 * MB  # the bus keeps events, too
