"""Whatever a client sends: an answer or a close code each, nobody else is harmed, and nothing is left over.

The same code for some thousand messages (`make test`) and for 100,000 (`make test-all`).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
import structlog
import uvloop
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mdp import feeds
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.config import WdsConfig
from mdp.wds.server import WidgetDataService
from tests.wds.doubles import receive, running, until
from tests.wds.messages import SAID, Said, mutated
from tests.wds.wire import CLOSE, PONG, TEXT, Heard, Wire, frame

DRAWN = 5  # messages of one client that hypothesis makes up
MUTANTS = 3  # of each of them
MESSAGES = DRAWN * (1 + MUTANTS)

# What RFC 6455, section 7.4.1, has for these cases.
PROPER_CODES = {1002, 1007, 1009}
NORMAL = 1000  # answers a close of the client's

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


class Errors(logging.Handler):
    """What a log must not hold: errors, and anything with a traceback."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it if it is one."""
        if record.exc_info or record.levelno >= logging.WARNING:
            self.found.append(record.getMessage())


class Rig:
    """A service on its own loop, what clients got from it, and what they left behind."""

    def __init__(self, loop: asyncio.AbstractEventLoop, config: WdsConfig, log: list[Any]) -> None:
        self.loop = loop
        self.log = log
        self.bus = MemoryBus(epoch=1)
        self.cache = MemoryCache(self.bus)
        self.service = WidgetDataService(config, self.bus, self.cache, close_seconds=2.0)
        self.said: collections.Counter[str] = collections.Counter()
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.loop_errors: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: self.loop_errors.append(context))
        self._number = 0
        self.before: collections.Counter[str] | None = None

    async def start(self) -> None:
        """Serve, but look for no new keys. There are none, and it would be a matter of luck whether that
        waits for its thread (a future) or for its time (a timer) when objects are counted.
        """
        await self.service.start()
        renewer = self.service._renewer
        assert renewer is not None
        renewer.cancel()
        await asyncio.wait({renewer})

    def run(self, said: list[Said], version: int, compressed: bool) -> None:
        """One client's life."""
        self.loop.run_until_complete(self._live(said, version, compressed))
        if self.before is None:  # caches of the first client are filled
            self.before = self.left_over()

    async def _live(self, said: list[Said], version: int, compressed: bool) -> None:
        wire = None
        for message in said:
            if message.compressed and not compressed:
                message = Said("reserved bit", message.data)
            if wire is None:
                wire = await Wire.connect(self.service.port, version=version, compressed=compressed)
            self._publish()
            outcome = await self._answer_to(wire, message, version)
            self.said[message.kind] += 1
            self.outcomes[outcome] += 1
            if outcome.startswith("close"):
                await wire.close()
                wire = None
        if wire is not None:
            await wire.close()
        async with asyncio.timeout(60):
            while self.service.counters.clients:  # noqa: ASYNC110 (a counter has nobody to tell)
                await asyncio.sleep(0)

    async def _answer_to(self, wire: Wire, message: Said, version: int) -> str:
        """Send a message and a question behind it; what came before the answer to the question."""
        mark = f"quote:MARK{self._number % 10}"
        question = frame(TEXT, f'{{"action":"unsubscribe","feed":"{mark}"}}'.encode())
        wire.send(message.data + question)
        answers: list[Any] = []
        while True:
            try:
                heard = await wire.hear()
            except (ConnectionError, TimeoutError) as error:
                raise AssertionError(f"{message} got neither an answer nor a close: {error!r}") from error
            if heard.opcode == CLOSE:
                assert not answers, (message, answers, heard)
                proper = PROPER_CODES | ({NORMAL} if message.kind == "broken frames" else set())
                assert heard.code in proper, (message, heard)
                return f"close {heard.code}"
            if heard.opcode == PONG:
                continue
            assert heard.opcode == TEXT, heard
            answer = heard.json()
            if not _is_answer(answer, version):
                continue
            if answer.get("status") == "unsubscribed" and mark in (
                answer.get("feed"),
                *answer.get("feeds", ()),
            ):
                assert len(answers) == 1, (message, answers)
                return _name_of(answers[0])
            answers.append(answer)

    def _publish(self) -> None:
        """Something for those who managed to subscribe, so that odd options are put to work."""
        self._number += 1
        rows = [
            {"symbol": f"S{rank}", "price": rank if self._number % 3 else None, "pct_change": str(rank)}
            for rank in range(3)
        ]
        self.bus.publish(feeds.TOP_GAINERS, "", rows if self._number % 5 else None)
        self.bus.publish(feeds.QUOTE, "AAPL", {"symbol": "AAPL", "price": self._number})
        self.bus.publish(feeds.ALERTS, "", {"symbol": "AAPL", "kind": "new_high"})

    def left_over(self) -> collections.Counter[str]:
        """Live objects of the packages that serve clients, by type."""
        self.loop.run_until_complete(asyncio.sleep(0))
        gc.collect()
        packages = ("mdp.wds.", "aiohttp.", "asyncio.", "_asyncio.", "uvloop.")  # the bus has its own bounds
        types = (type(found) for found in gc.get_objects())
        names = (f"{kind.__module__}.{kind.__qualname__}" for kind in types)
        # asyncio drops cancelled timers, emptied before, some hundreds at a time.
        ignored = "asyncio.events.TimerHandle"
        return collections.Counter(name for name in names if name.startswith(packages) and name != ignored)

    def check(self) -> None:
        """Nothing of any client is left, nothing was logged, and somebody new is served."""
        assert self.before is not None
        self.loop.run_until_complete(self.service.tick())  # the hub forgets who joined in the last one
        grown = self.left_over() - self.before
        deadline = time.monotonic() + 20.0
        while grown and time.monotonic() < deadline:  # what the last ones did not take in time is dropped
            self.loop.run_until_complete(asyncio.sleep(0.1))
            grown = self.left_over() - self.before
        assert not grown
        counters = self.service.counters
        assert (counters.clients, counters.subscriptions) == (0, 0)
        assert not any(self.bus.interest(family) for family in feeds.FAMILIES)
        assert not list(self.service._clients)
        assert counters.encode_errors == 0
        assert not self.loop_errors, self.loop_errors[:3]
        assert not self.log, self.log[:3]
        assert self.service.health().ok
        served = self.loop.run_until_complete(self._be_served())
        assert served.json() == {"status": "subscribed", "feed": "alerts"}

    async def _be_served(self) -> Heard:
        wire = await Wire.connect(self.service.port)
        wire.say(action="subscribe", feed="alerts")
        try:
            return await wire.hear()
        finally:
            await wire.close()

    def report(self, seconds: float) -> str:
        """Figures for a person."""
        total = sum(self.said.values())
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.said.most_common())
        ends = ", ".join(f"{name} {count:,}" for name, count in self.outcomes.most_common())
        return f"{total:,} messages in {seconds:.0f} s\n  said: {kinds}\n  got: {ends}"


def _is_answer(message: Any, version: int) -> bool:
    """Answers are objects with a status or of a get; in version 2 what is published comes in lists."""
    if not isinstance(message, dict) or message.get("status") == "resync":
        return False
    return "status" in message or message.get("kind") == "get" or (version == 1 and "cache" in message)


def _name_of(answer: dict[str, Any]) -> str:
    return str(answer.get("code") or answer.get("status") or "get")


@contextlib.contextmanager
def rigged(loop_name: str, config: WdsConfig) -> Iterator[Rig]:
    """A rig, and the end of it."""
    errors = Errors()
    logging.getLogger().addHandler(errors)
    loop = LOOPS[loop_name]()
    with structlog.testing.capture_logs() as log:
        rig = Rig(loop, config, log)
        loop.run_until_complete(rig.start())
        try:
            yield rig
            assert not errors.found, errors.found[:3]
        finally:
            loop.run_until_complete(rig.service.stop())
            loop.close()
            logging.getLogger().removeHandler(errors)


def fuzz(loop_name: str, version: int, messages: int) -> str:
    """That many messages by clients of a version; the figures."""
    config = WdsConfig(port=0, tick_ms=1, actions_per_second=1e9, action_burst=10**9)
    began = time.monotonic()
    with rigged(loop_name, config) as rig:

        @settings(
            max_examples=messages // MESSAGES,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # a failure says which message it was: nothing to shrink
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(SAID, min_size=DRAWN, max_size=DRAWN), st.integers(0, 2**64), st.booleans())
        def converse(drawn: list[Said], seed: int, compressed: bool) -> None:
            random = Random(seed)
            said = []
            for message in drawn:
                said += [message, *(mutated(message, random) for _ in range(MUTANTS))]
            rig.run(said, version, compressed and version == 2)

        converse()
        rig.check()
        assert sum(rig.said.values()) >= messages
        return rig.report(time.monotonic() - began)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("loop_name", LOOPS)
def test_any_message_gets_an_answer_or_a_close_code(loop_name: str, version: int) -> None:
    """Of JSON with wrong types, damaged, nested, huge, binary, invalid and compressed ones; nothing leaks."""
    fuzz(loop_name, version, 1_000)


@settings(deadline=None, max_examples=40)
@given(st.binary(min_size=1, max_size=300))
def test_any_bytes_on_the_wire_harm_nobody_else(data: bytes) -> None:
    """Broken frames end their own connection at most."""
    asyncio.run(_fuzz_wire(data))


async def _fuzz_wire(data: bytes) -> None:
    async with running(close_seconds=0.05) as env:
        wire = await Wire.connect(env.service.port)
        wire.send(data)
        client = await env.subscriber("alerts")
        env.bus.publish(feeds.ALERTS, "", "served")
        assert await receive(client) == "served"
        await wire.close()
        await until(lambda: env.service.counters.clients <= 1)


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_hundred_thousand_messages_get_an_answer_or_a_close_code_each(loop_name: str, version: int) -> None:
    """25,000 on each loop and in each version; `-s` shows what they were and what they got."""
    print(f"\n{loop_name}, version {version}: {fuzz(loop_name, version, 25_000)}")
