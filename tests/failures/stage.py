"""A cluster with clients and a witness, on which one case after another is played."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from mdp.client import WdsClient
from tests.failures.cluster import Cluster, faketime_library
from tests.failures.counts import Books, in_words
from tests.failures.gaps import Gaps, is_alert
from tests.failures.recorder import EVENT_FEEDS, Judge, Recorder, identity
from tests.failures.witness import Witness

BOARDS = ("scanners:top_volume", "scanners:top_gainers")
_SYMBOLS = 20
_OPEN_MS = 1_773_149_400_000  # 2026-03-10 09:30 New York: before it the witness knows less than the platform
_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.4
_LATE_SECONDS = 0.5  # what came just before the end may still be under way


class Pace(msgspec.Struct, kw_only=True, frozen=True):
    """How long a case waits for what may still come, in seconds."""

    before_s: float = 2.0  # data flows
    after_s: float = 3.0  # likewise, once everything is healed
    still_s: float = 1.2  # nothing is counted any more: all has been processed
    open_s: float = 5.0  # after the market's open clients have to be there


QUICK = Pace(before_s=0.2, after_s=0.3, still_s=0.7, open_s=1.0)


class Outcome(msgspec.Struct, kw_only=True):
    """What one case did to clients and processes."""

    name: str
    boards_s: float  # the longest silence of a board, in seconds; of any client
    quotes_s: float  # the longest time for which any of the quotes did not show that its symbol was traded
    status_s: float  # of market:status
    fresh_s: float | None  # from the return of what was away to the first new board
    faults: dict[str, int]  # must be empty
    notes: dict[str, int]
    alerts: int  # that one process tells of the same market
    missing: int  # of them clients never saw
    uncovered: int  # of these, in the time of no entry of the gap ledger: lost without a reason
    extra: int  # that one process does not tell, and that say of themselves that they may be wrong
    false: int  # that one process does not tell, and that say nothing
    accounting: str
    unknown: int  # events nobody accounts for
    connections: int  # to the provider, opened meanwhile
    rss_mb: dict[str, tuple[float, float, float]]  # before, at most, after
    details: list[str]
    starved_s: float = 0.0  # the longest time for which this very process was given no processor
    failed: str = ""  # why it could not be played to its end


class Stage:
    """See the module. Made by `staged`."""

    def __init__(self, cluster: Cluster, pace: Pace | None = None) -> None:
        self.cluster = cluster
        self._pace = pace or Pace()
        self.witness = Witness(cluster.sim_port)
        self.books = Books(cluster)
        self.recorders: list[Recorder] = []
        self.returned: float | None = None
        self._library = Judge()  # what the client library hands out, judged the same way
        self._library_task: asyncio.Task[None] | None = None
        self._joined_ms = 0
        self._compared: tuple[set[Any], set[Any], int] = (set(), set(), 0)
        self.gaps = Gaps(cluster)
        self._balance: Counter[str] = Counter()
        self._starved = 0.0

    def back(self) -> None:
        """What was away has returned: from now on it is measured how long news take."""
        self.returned = time.monotonic()

    async def begin(self) -> None:
        """Start everything, and wait for the open of the market."""
        await self.witness.start()
        await self.cluster.start()
        await self.cluster.pause(False)
        symbols = await self._busiest()
        feeds = [*BOARDS, "market:status", *EVENT_FEEDS]
        feeds += [f"{kind}:{symbol}" for symbol in symbols for kind in ("quote", "daily_range")]
        for first in [role.name for role in self.cluster.of("wds")]:
            recorder = Recorder(first, self.cluster.wds_urls(first), feeds)
            self.recorders.append(recorder)
            await recorder.start()
        self._library_task = asyncio.create_task(self._read_with_library())
        while True:
            self._joined_ms = (await self.cluster.stats())["market_time_ms"]
            if self._joined_ms > _OPEN_MS + self._pace.open_s * 1_000:
                break  # begun after it: alerts cannot be compared
            await asyncio.sleep(0.5)
        await self._flowing()
        assert self.witness.bars, "the witness sees no bars"
        await self._rest()

    async def end(self) -> None:
        """Let clients go."""
        if self._library_task is not None:
            self._library_task.cancel()
            await asyncio.gather(self._library_task, return_exceptions=True)
        for recorder in self.recorders:
            await recorder.stop()
        await self.witness.stop()

    async def play(
        self, name: str, act: Callable[[Stage], Awaitable[None]], *, heals: bool = True
    ) -> Outcome:
        """One case: data flows, something happens, all is healed, data flows, the market stands still.

        Args:
            name: Of the case.
            act: What happens.
            heals: Whether processes that are gone are started again.

        Raises:
            AssertionError: It does not heal.
        """
        await self.cluster.pause(False)
        await self._flowing()
        await asyncio.sleep(self._pace.before_s)
        self.returned = None
        balance = self._balance
        compared = self._compared
        faults, notes = self._sum("faults"), self._sum("notes")
        told = [len(recorder.judge.details) for recorder in self.recorders]
        stats = await self.cluster.stats()
        self._starved = 0.0
        before = self.cluster.rss()
        most = dict(before)
        watching = asyncio.create_task(self._watch(most))
        begin = time.monotonic()
        try:
            await act(self)
            await self._flowing()
            if heals:
                await self.cluster.heal()
            await asyncio.sleep(self._pace.after_s)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        end = time.monotonic()
        after = self.cluster.rss()
        opened = (await self.cluster.stats())["connections_total"] - stats["connections_total"]
        await self._rest()
        missing, extra, alerts = self._compared
        words, unknown = in_words(balance, self._balance)
        new_extra = extra - compared[1]
        sure = [key for key in new_extra if self._sure(key)]
        uncovered = sorted(key for key in missing - compared[0] if not self.gaps.cover(key[1:]))
        return Outcome(
            name=name,
            boards_s=max(r.longest(begin, end, board) for r in self.recorders for board in BOARDS),
            quotes_s=max(r.latest(begin, end - _LATE_SECONDS, self.witness.bars) for r in self.recorders),
            status_s=max(r.longest(begin, end, "market:status") for r in self.recorders),
            fresh_s=self._fresh(),
            faults=dict(self._sum("faults") - faults),
            notes=dict(self._sum("notes") - notes),
            alerts=alerts - compared[2],
            missing=len(missing - compared[0]),
            uncovered=len(uncovered),
            extra=len(new_extra) - len(sure),
            false=len(sure),
            accounting=words,
            unknown=unknown,
            connections=opened,
            rss_mb={name: (before.get(name, 0.0), most[name], after.get(name, 0.0)) for name in sorted(most)},
            starved_s=self._starved,
            details=[
                f"{recorder.name}: {detail}"
                for recorder, known in zip(self.recorders, told, strict=True)
                for detail in recorder.judge.details[known:]
            ]
            + [f"false alert: {key}" for key in sure[:5]]
            + [f"missing without a gap: {key}" for key in uncovered[:5]],
        )

    # --- parts ---

    async def _busiest(self) -> list[str]:
        async with WdsClient(self.cluster.wds_urls("wds-a")()[0]) as client:
            until = time.monotonic() + _PATIENCE_SECONDS
            while len(rows := await client.get(BOARDS[0], _SYMBOLS) or []) < _SYMBOLS:
                assert time.monotonic() < until, "no board"
                await asyncio.sleep(0.5)
        return [row["symbol"] for row in rows]

    async def _read_with_library(self) -> None:
        """Alerts by `mdp.client`, over whatever happens to its service."""
        async with WdsClient(self.cluster.wds_urls("wds-a")()[0]) as client:
            async for update in client.subscribe(EVENT_FEEDS[0]):
                if update.kind == "event":
                    key = identity(update.value)
                    self._library.faults["repeated by mdp.client"] += key in self._library.events
                    self._library.events[key] = update.value

    async def _flowing(self) -> None:
        """Each client gets new boards, and a new value of half of the quotes."""
        since = time.monotonic()
        for recorder in self.recorders:
            while True:
                recorder.defect()
                news = {one.feed for one in recorder.judge.seen[-4_000:] if one.fresh and one.arrival > since}
                if news.issuperset(BOARDS) and len(news) > len(BOARDS) + _SYMBOLS // 2:
                    break
                assert time.monotonic() < since + _PATIENCE_SECONDS, f"{recorder.name} hears {news}"
                await asyncio.sleep(0.1)

    async def _watch(self, most: dict[str, float]) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                await self.books.look()
            for name, mb in self.cluster.rss().items():
                most[name] = max(most.get(name, 0.0), mb)
            for _ in range(8):
                due = time.monotonic() + _LOOK_SECONDS / 8
                await asyncio.sleep(_LOOK_SECONDS / 8)
                self._starved = max(self._starved, time.monotonic() - due)

    async def _rest(self) -> None:
        """Let the market stand still, and count."""
        await self.cluster.pause(True)
        self._balance = await self.books.quiet(self._balance, self._pace.still_s)
        await self.gaps.look()
        told = {key: event for key, event in (await self.witness.told()).items() if self._counts(key)}
        missing: set[Any] = set()
        extra: set[Any] = set()
        for recorder in self.recorders:
            events = {key for key in recorder.judge.events if self._counts(key)}
            missing |= {(recorder.name, *key) for key in told.keys() - events}
            extra |= {(recorder.name, *key) for key in events - told.keys()}
        self._compared = (missing, extra, len(told))

    def _counts(self, key: tuple[Any, ...]) -> bool:
        """Whether client and witness both were there from the beginning."""
        if is_alert(key):  # its time is that of its bar, in seconds
            return bool(key[1] == "regular" and key[4] * 1_000 >= self._joined_ms)
        return bool(key[2] and key[2] >= self._joined_ms)

    def _sure(self, key: tuple[Any, ...]) -> bool:
        """Whether an event of a client says nothing of that a more extreme price may have been missed."""
        recorder = next(one for one in self.recorders if one.name == key[0])
        return recorder.judge.events[key[1:]].get("uncertain_since") is None

    def _sum(self, what: str) -> Counter[str]:
        found: Counter[str] = Counter()
        for judge in (*(recorder.judge for recorder in self.recorders), self._library):
            found.update(getattr(judge, what))
        return found

    def _fresh(self) -> float | None:
        if self.returned is None:
            return None
        firsts = []
        for recorder in self.recorders:
            for board in BOARDS:
                times = (s.arrival for s in recorder.judge.seen if s.feed == board and s.fresh)
                firsts.append(next((at for at in times if at >= self.returned), float("inf")))
        return max(firsts) - self.returned


@asynccontextmanager
async def staged(folder: Path, kind: str) -> AsyncIterator[Stage]:
    """A stage that is ready for its first case.

    Args:
        folder: For logs; a short path.
        kind: "plain"; "proxied": a network between each role and Redis; "skewed": clocks that are 2 s wrong,
            against each other and against Redis; "one": the provider allows one connection; "small": few
            processes and symbols, for cases that are over in seconds.
    """
    options: dict[str, Any] = {}
    if kind == "proxied":
        options["proxied"] = True
    elif kind == "skewed":
        assert faketime_library(), "needs libfaketime (Debian: faketime)"
        options["skews"] = {"listener-a": 2.0, "processor-a": -2.0, "wds-a": 2.0, "scanner-a": -2.0}
    elif kind == "one":
        options["second_connection"] = "reject"
    elif kind == "small":
        options["roles"] = ("listener-a", "processor-a", "processor-b", "wds-a")
        # Everybody is there before the market opens, whatever time that takes.
        options |= {"rate": 600.0, "symbols": 60, "start": "2026-03-10T09:29:59"}
        options["simulate"] = ("--fault", "pause")
    async with Cluster(folder, **options) as cluster:
        stage = Stage(cluster, QUICK if kind == "small" else None)
        try:
            await stage.begin()
            yield stage
        finally:
            await stage.end()
