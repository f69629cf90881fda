"""The two platforms that `mdp bench queues` compares: roles around Redis, and one process in memory.

Each has a feeder of its own; made alike, the two send the same bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path

from mdp.bench import accounting, chain_counts, control
from mdp.bench.accounting import Check
from mdp.bench.chain_counts import ChainCounts, ListenerCounts
from mdp.bench.children import Child, Questions, RedisChild, start_role
from mdp.bench.process import BenchError, FeederProcess

_SPREAD_SECONDS = 60.0
_LISTENER_EVERY = 16  # questions to processors, before the listener is asked again what it lost


class Platform(ABC):
    """One side.

    Attributes:
        name: For people.
        feeder: Its provider, with its clients.
        children: Its processes by what they are, feeder excepted.
    """

    def __init__(self, name: str, feeder: FeederProcess, questions: Questions) -> None:
        self.name = name
        self.feeder = feeder
        self.questions = questions
        self.children: dict[str, list[Child]] = {}

    @abstractmethod
    async def settled(self) -> int:
        """Events it is through with since the start, one way or the other."""

    @abstractmethod
    async def processed(self) -> int:
        """Events that analyzers saw, since the start."""

    @abstractmethod
    async def lost(self) -> int:
        """Events that they will never see."""

    @abstractmethod
    async def checks(self, sent: control.Sent) -> list[Check]:
        """What must be equal when nothing moves."""

    async def connect(self, clients: int, quotes: int) -> None:
        """So many clients to each of its data services."""
        for child in self.children.get("wds", self.children.get("all", [])):
            await self.feeder.ask(control.Connect(child.ports["wds"], clients, quotes))


class Alone(Platform):
    """`mdp run --role all`, in memory."""

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, options: control.FeederOptions, questions: Questions, folder: Path
    ) -> AsyncIterator[Alone]:
        """One that is ready; ended with the context.

        Raises:
            BenchError: Something did not come up.
        """
        async with contextlib.AsyncExitStack() as stack:
            feeder = await FeederProcess.start(options)
            stack.push_async_callback(feeder.stop)
            alone = cls("one process", feeder, questions)
            child = await start_role("all", "all", folder, settings_for(feeder.ready, folder))
            stack.push_async_callback(child.stop)
            alone.children["all"] = [child]
            await child.listening()
            await questions.ready(child)
            yield alone

    async def counts(self) -> accounting.Accounting:
        """As its stages counted."""
        return accounting.read(await self.questions.admin(self.children["all"][0], "/queues"))

    async def settled(self) -> int:
        return (await self.counts()).settled

    async def processed(self) -> int:
        return (await self.counts()).total("processed")

    async def lost(self) -> int:
        return (await self.counts()).lost

    async def checks(self, sent: control.Sent) -> list[Check]:
        said = await self.questions.admin(self.children["all"][0], "/analyzers")
        failures = [
            Check(f"failures of the analyzer {row['name']}", row["failures"], 0) for row in said["analyzers"]
        ]
        return accounting.checks(await self.counts(), sent) + failures


class Chain(Platform):
    """Redis, a listener, processors and data services, each a process."""

    redis: RedisChild

    def __init__(self, name: str, feeder: FeederProcess, questions: Questions) -> None:
        super().__init__(name, feeder, questions)
        self._asked = 0
        self._gone = 0  # events that the listener lost, when it was asked last

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls,
        options: control.FeederOptions,
        questions: Questions,
        folder: Path,
        *,
        processors: int = 1,
        wds: int = 1,
    ) -> AsyncIterator[Chain]:
        """One that is ready: partitions are spread evenly and live; ended with the context, Redis last.

        Raises:
            BenchError: Something did not come up.
        """
        async with contextlib.AsyncExitStack() as stack:
            redis = await RedisChild.start(folder)
            stack.push_async_callback(redis.stop)
            feeder = await FeederProcess.start(options)
            stack.push_async_callback(feeder.stop)
            chain = cls(f"{processors} processors, {wds} wds, redis", feeder, questions)
            chain.redis = redis
            chain.children["redis"] = [redis.child]
            settings = settings_for(feeder.ready, folder)
            settings["MDP_CACHE_URL"] = f"redis://127.0.0.1:{redis.port}/0"
            for role, count in (("wds", wds), ("processor", processors), ("listener", 1)):
                for number in range(count):
                    child = await start_role(f"{role}-{number}", role, folder, settings)
                    stack.push_async_callback(child.stop)
                    chain.children.setdefault(role, []).append(child)
            for child in [
                child for role in ("wds", "processor", "listener") for child in chain.children[role]
            ]:
                await child.listening()
                await questions.ready(child)
            await chain._spread()
            yield chain

    async def _spread(self) -> None:
        """Wait until each processor works on its share of the partitions."""
        children = self.children["processor"]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SPREAD_SECONDS):
                while True:
                    said = [await self.questions.admin(child, "/status") for child in children]
                    live = [
                        sum(one["live"] for one in status["processor"]["partitions"].values())
                        for status in said
                    ]
                    count = int(await self.redis.client.get("mdq:partitions") or 0)
                    if sum(live) == count > 0 and max(live) <= -(-count // len(children)):
                        return
                    await asyncio.sleep(0.1)
        raise BenchError("the partitions were not spread over the processors")

    async def counts(self) -> ChainCounts:
        """As the stages of all processes counted. One after the other: exact when nothing moves."""
        ask, processors = self.questions.admin, self.children["processor"]
        return chain_counts.read(
            await ask(self.children["listener"][0], "/queues"),
            [await ask(child, "/queues") for child in processors],
            [await ask(child, "/analyzers") for child in processors],
        )

    async def settled(self) -> int:
        through = await self._through()
        if self._asked % _LISTENER_EVERY == 0:
            said = await self.questions.admin(self.children["listener"][0], "/queues")
            self._gone = chain_counts.read(said, ()).listener.gone
        self._asked += 1
        return through.settled + self._gone

    async def processed(self) -> int:
        return (await self._through()).total.processed

    async def lost(self) -> int:
        return (await self.counts()).lost

    async def checks(self, sent: control.Sent) -> list[Check]:
        return chain_counts.checks(await self.counts(), sent)

    async def _through(self) -> ChainCounts:
        """As the processors count, who alone are asked."""
        ask = self.questions.admin
        said = await asyncio.gather(*(ask(child, "/queues") for child in self.children["processor"]))
        counts = chain_counts.read({}, said)
        counts.listener = ListenerCounts()
        return counts


def settings_for(ready: control.Ready, folder: Path) -> dict[str, str]:
    """The environment of a process of the platform: the defaults, with the feeder as the provider."""
    return {
        "MDP_MASSIVE_FEED": f"127.0.0.1:{ready.ws_port}",
        "MDP_MASSIVE_REST_URL": f"http://127.0.0.1:{ready.rest_port}",
        "MDP_MASSIVE_SECURE": "false",
        "MASSIVE_API_KEY": "bench",
        "MDP_CACHE_SNAPSHOT_PATH": str(folder / "mdp.snapshot"),
        "MDP_CACHE_HISTORY_PATH": str(folder / "history"),
    }
