"""Repairs highs, lows and volumes after data was lost, from bars that the provider keeps.

In the background, symbol by symbol, those that somebody looks at first: a stream that goes on is not
delayed, and a provider that does not answer leaves the gap ledger saying whose numbers may be wrong.
Nothing that is repaired is announced as new (`Market.refill`). Trades and quotes cannot be had again so.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

import structlog

from mdp.cache.rest import RestClient, RestError
from mdp.cache.validate import LARGEST_SHARES, Rejected
from mdp.listener.gaps import DONE, FAILED, OFF, PARTIAL, RUNNING, WAITING, Gap
from mdp.observability.loop_lag import StepTimer
from mdp.observability.metrics import Metrics
from mdp.processor.backfill_sources import Turns
from mdp.processor.engine import Engine
from mdp.processor.missed_bars import LENGTH_MS, MINUTE, SECOND, BodyError, Found, complete, fetch, volumes
from mdp.sessions import TradingDay
from mdp.stage import Health

log = structlog.get_logger(__name__)

#: Second bars for outages up to this, minute bars for longer ones: one question brings either.
SECONDS_UP_TO_MS = 600_000
#: Bars come some seconds after their end, minutes after a minute: what was current when data was lost, is
#: asked for again.
EARLIER_MS = 30_000
SETTLE_SECONDS = 3.0  # after a loss: second bars are published two seconds late (market.md A2)
FINAL_SECONDS = 70.0  # waited at most for the market clock to reach the end of a minute
CONCURRENCY = 2  # of the REST client's requests, so that others are not kept waiting
PASSES = 3  # over the symbols whose answers were no use
PASS_SECONDS = 30.0  # between them
DOWN_AFTER = 5  # failures in a row, after which the provider is left alone for a while
DOWN_SECONDS, MAX_DOWN_SECONDS = 5.0, 60.0
GIVE_UP_AFTER = 20  # refusals in a row without any answer: the plan does not include bars
MAX_LEFT = 2_000  # symbols kept by name as not repaired; of more, any that is not repaired is uncertain
STEP = 250  # bars or symbols between two turns of the event loop
_REFUSED = frozenset({400, 401, 402, 403, 405, 410, 501})


#: Volumes (shares) of the engine's symbols on a day, asked for not before a monotonic time.
Snapshot = Callable[[TradingDay, float], Awaitable[dict[str, float]]]


async def _at_once() -> bool:
    return True


class _Ended(Exception):
    """A pass is not worth going on with; the text says why."""


class _Gone(Exception):
    """The engine is not used any more: whoever has its state now repairs it."""


class Backfill:
    """See the module. A stage.

    Args:
        rest: The provider; its rate limit is shared with all who ask.
        engine: What takes the bars.
        enabled: If not, losses are only entered as not repaired.
        max_symbols: Of one pass.
        include_otc: Ask for the volumes of OTC symbols, too.
        wanted: Symbols that clients subscribe to.
        boards: Symbols on boards.
        owns: Whether a symbol is one of the engine's.
        snapshot: Where volumes come from; None: we ask for everybody's ourselves.
        turns: With the provider, where others repair, too.
        free: Waits until the engine's state may move; false where the engine is not used any more.
        step: Durations of its steps on the event loop.
        clock: Monotonic seconds.
        sleep: Injected by tests.

    Attributes:
        rejected: Values of answers that were not used, by reason.
        waiting: Symbols that the present pass has still to ask for.
        requests: Outcome -> symbols asked for.
        bars: Bars taken.
    """

    name = "backfill"

    def __init__(
        self,
        rest: RestClient,
        engine: Engine,
        *,
        enabled: bool = True,
        max_symbols: int = 12_000,
        include_otc: bool = False,
        wanted: Callable[[], Iterable[str]] = lambda: (),
        boards: Callable[[], Awaitable[Iterable[str]]] | None = None,
        owns: Callable[[str], bool] = lambda _symbol: True,
        snapshot: Snapshot | None = None,
        turns: Turns | None = None,
        free: Callable[[], Awaitable[bool]] = _at_once,
        step: StepTimer | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._rest, self._engine = rest, engine
        self._enabled, self._max_symbols, self._include_otc = enabled, max_symbols, include_otc
        self._wanted, self._boards = wanted, boards
        self._owns, self._free = owns, free
        self._snapshot = self._ask_for_all if snapshot is None else snapshot
        self._turns = Turns(CONCURRENCY) if turns is None else turns
        self._step = step if step is not None else StepTimer()
        self._clock, self._sleep = clock, sleep
        self._task: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        self._gaps: list[Gap] = []  # to be repaired
        self._number = 0  # losses up to this one are over
        self._until_ms = 0.0  # when data had come again after them
        self._wanted_at = 0.0  # monotonic, when that was
        self._places: dict[str, float] = {}  # symbol -> the lower, the sooner it is asked for
        self._waited: set[int] = set()  # ends of minutes (ms) whose bars are final
        self._has_seconds: bool | None = None  # whether the provider keeps second bars; None: not known
        self._failures = self._refusals = 0  # in a row
        self._answered = 0  # symbols, with good or unusable bars
        self._trouble = ""  # the last failure, for people; empty once there was an answer
        self.rejected = Rejected()
        self._checks = self.rejected.at("bars")
        self.waiting = 0
        self.requests: dict[str, int] = {}
        self.bars = 0

    # -- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Wait for losses in the background."""
        if self._enabled:
            self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """Give up what is under way. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def health(self) -> Health:
        """Always good: whatever the provider does, live data flows."""
        if not self._enabled:
            return Health(True, "off")
        return Health(True, f"{self.waiting} symbols wait" if self.waiting else "nothing to repair")

    def register(self, metrics: Metrics) -> None:
        """Show its counters."""
        metrics.counters(
            "mdp_backfill_symbols_total",
            "Symbols whose missed bars were asked for, by what came of it.",
            ("outcome",),
            lambda: {(outcome,): float(n) for outcome, n in self.requests.items()},
        )
        metrics.gauges(
            "mdp_backfill_waiting_symbols",
            "Symbols whose missed bars are still to be asked for.",
            (),
            lambda: {(): float(self.waiting)},
        )
        metrics.counters(
            "mdp_backfill_bars_total", "Missed bars that were taken.", (), lambda: {(): float(self.bars)}
        )
        metrics.counters(
            "mdp_backfill_rejected_total",
            "Values of the provider's bars that were missing, wrong or absurd and not used.",
            ("endpoint", "reason"),
            lambda: self.rejected.counts,
        )

    # -- what is wanted ---------------------------------------------------------------------------

    def want(self, gap: Gap, number: int, until_ms: float) -> None:
        """Repair a loss that is over (see `Losses`). A pass that is under way begins again with it."""
        if not self._enabled:
            gap.repair, gap.repair_detail = OFF, "processor.backfill is off, or not for this market"
            return
        gap.repair = WAITING
        if not any(known is gap for known in self._gaps):
            self._gaps.append(gap)
        self._number = max(self._number, number)
        self._until_ms = max(self._until_ms, until_ms)
        self._wanted_at = self._clock()
        self._asked.set()

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self._sleep(SETTLE_SECONDS)
            day = self._engine.market.clock.day
            try:
                if day is not None:
                    await self._repair(day)
            except _Gone:
                return
            except Exception as exc:  # a defect of ours must not end all repairs to come
                log.error("backfill_failed", exc_info=exc)
                self._close(FAILED, "internal error; the log has the cause", None)

    def _tell(self, repair: str, detail: str) -> None:
        for gap in self._gaps:
            gap.repair, gap.repair_detail = repair, detail

    def _close(self, repair: str, detail: str, left: Iterable[str] | None) -> None:
        """The entries are done with; `left` may have wrong extremes (None: any that is not repaired)."""
        gaps, self._gaps = self._gaps, []
        names = None if left is None else set(left)
        for gap in gaps:
            gap.repair, gap.repair_detail = repair, detail
            if names is not None:
                gap.name_uncertain(names)
        self.waiting = 0
        log.info("backfill_over", outcome=repair, detail=detail, entries=[gap.number for gap in gaps])

    # -- a repair ---------------------------------------------------------------------------------

    async def _repair(self, day: TradingDay) -> None:
        """Passes over all symbols of which something is missing, until it is known or given up."""
        number, until_ms = self._number, self._until_ms
        self._has_seconds = None
        self._failures = self._refusals = 0
        self._waited.clear()
        self._tell(RUNNING, "")
        known = await self._volumes(day)
        symbols = await self._in_order(known)
        cut = len(symbols) > self._max_symbols
        left: list[str] = symbols[: self._max_symbols]
        try:
            passes = 0
            while True:
                answered = self._answered
                left = await self._pass(left, number, until_ms, known, day)
                passes += self._answered > answered  # a provider that is down is asked again all day
                if not left or passes >= PASSES:
                    break
                self._tell(
                    RUNNING, f"{self._trouble or 'no good answers'}; {len(left)} symbols once more soon"
                )
                await self._sleep(PASS_SECONDS)
        except _Ended as end:
            if not self._asked.is_set():
                self._close(FAILED, str(end), None)
                return
        if self._asked.is_set():  # a newer loss: all entries go on with it
            self._tell(WAITING, "")
            return
        if self._engine.market.clock.day != day:
            self._close(FAILED, "the trading day was over", None)
            return
        if cut:
            detail = f"only {self._max_symbols} of {len(symbols)} symbols (processor.backfill_max_symbols)"
            self._close(PARTIAL, detail, None)
            return
        await self._may_move()
        if len(left) <= MAX_LEFT:
            self._engine.market.trust.settle(number, left)
        if left:
            named = left if len(left) <= MAX_LEFT else None
            self._close(PARTIAL, f"{len(left)} symbols could not be repaired", named)
        else:
            self._close(DONE, "", ())

    async def _volumes(self, day: TradingDay) -> dict[str, float]:
        """Today's volumes from a snapshot, given to the symbols that lack some; empty where there is none."""
        if not self._engine.market.trust.whole_market:
            return {}  # some symbols: their bars tell as much, and are less than everybody's volumes
        try:
            known = await self._snapshot(day, self._wanted_at)
        except (RestError, BodyError) as exc:
            log.warning("backfill_without_snapshot", error=str(exc))
            return {}
        items = list(known.items())
        for at in range(0, len(items), STEP):
            await self._may_move()
            with self._step:
                self._engine.raise_volumes(dict(items[at : at + STEP]))
            await asyncio.sleep(0)
        return known

    async def _ask_for_all(self, day: TradingDay, _since: float) -> dict[str, float]:
        checks = self.rejected.at("snapshot")
        return await volumes(self._rest, day, checks, self._step, include_otc=self._include_otc)

    async def _may_move(self) -> None:
        """Return when the engine's state may be changed, up to the next wait.

        Raises:
            _Gone: The engine is not used any more.
        """
        if not await self._free():
            raise _Gone

    async def _in_order(self, known: dict[str, float]) -> list[str]:
        """Symbols of which something is missing: those looked at first, then by the day's volume."""
        market = self._engine.market
        trust = market.trust
        if not trust.whole_market:
            everybody = trust.symbols()
        else:
            others: Iterable[str] = known or market.references
            everybody = [*market.symbols, *(name for name in others if name not in market.symbols)]
        first = dict.fromkeys(self._wanted())
        if self._boards is not None:
            first.update(dict.fromkeys(await self._boards()))
        places: dict[str, float] = {}
        for at in range(0, len(everybody), STEP):
            for symbol in everybody[at : at + STEP]:
                if trust.uncertain_since(symbol) is None or not self._owns(symbol):
                    continue
                state = market.symbols.get(symbol)
                volume = known.get(symbol, 0) if state is None else state.accumulated_volume
                tier = 0 if symbol in first else 1 if state is not None else 2
                places[symbol] = tier * LARGEST_SHARES - volume
            await asyncio.sleep(0)
        self._places = places
        with self._step:  # one number each: comparing tuples would take three times as long
            return sorted(places, key=places.__getitem__)

    async def _pass(
        self, symbols: list[str], number: int, until_ms: float, known: dict[str, float], day: TradingDay
    ) -> list[str]:
        """Ask for each symbol once; returns those whose answer was no use.

        Raises:
            _Ended: It is not worth going on.
        """
        queue, left = deque(symbols), []

        async def work() -> None:
            while queue:
                self.waiting = len(queue)
                if self._asked.is_set():
                    raise _Ended("a newer loss")
                if self._engine.market.clock.day != day:
                    raise _Ended("the trading day was over")
                symbol = queue.popleft()
                if not await self._one(symbol, number, until_ms, known, day):
                    left.append(symbol)

        tasks = [asyncio.create_task(work(), name=f"backfill-{place}") for place in range(CONCURRENCY)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self.waiting = 0
        return left

    async def _one(
        self, symbol: str, number: int, until_ms: float, known: dict[str, float], day: TradingDay
    ) -> bool:
        """Repair one symbol; False where it could not be."""
        market = self._engine.market
        since_ms = market.trust.uncertain_since(symbol)
        if since_ms is None:
            return True
        try:
            found = await self._missed(symbol, max(since_ms - EARLIER_MS, day.start_ms), until_ms, day)
        except RestError as exc:
            await self._failed(exc)
            return False
        self._failures = self._refusals = 0
        self._answered += 1
        if self._trouble:
            self._trouble = ""
            self._tell(RUNNING, "")
        if market.clock.day != day:
            return False
        for at in range(0, len(found.bars), STEP):
            part = found.bars[at : at + STEP]
            await self._may_move()
            with self._step:
                complete(part, market.symbols.get(symbol), known.get(symbol))
                self._engine.refill(part)
            self.bars += len(part)
            await asyncio.sleep(0)
        if found.refused:
            self._count("rejected")
            return False
        await self._may_move()
        with self._step:
            self._engine.repaired((symbol,), number)
        for gap in self._gaps:
            gap.repaired += 1
        self._count("bars" if found.bars else "nothing")
        return True

    async def _missed(self, symbol: str, since_ms: float, until_ms: float, day: TradingDay) -> Found:
        state = self._engine.market.symbols.get(symbol)
        near = 0.0
        if state is not None:
            near = float(state.bar.close if state.bar is not None else state.reference.prev_day_close)
        found = Found([], 0)
        if until_ms - since_ms <= SECONDS_UP_TO_MS + EARLIER_MS and self._has_seconds is not False:
            found = await self._ask(symbol, SECOND, since_ms, until_ms, near)
            if found.bars or found.refused:
                self._has_seconds = True
            if self._has_seconds:
                return found
        # Nobody traded, or the provider keeps no seconds.
        end = _up(until_ms, LENGTH_MS[MINUTE])
        await self._until_final(end)
        found = await self._ask(symbol, MINUTE, since_ms, end, near)
        if found.bars and self._has_seconds is None:
            self._has_seconds = False
        return found

    async def _ask(self, symbol: str, timespan: str, since_ms: float, until_ms: float, near: float) -> Found:
        length = LENGTH_MS[timespan]
        since, until = int(since_ms // length * length), _up(until_ms, length)
        until = max(until, since + length)
        async with self._turns.turn(self._places.get(symbol, 0.0)):
            return await fetch(self._rest, symbol, timespan, since, until, near=near, checks=self._checks)

    async def _until_final(self, end_ms: int) -> None:
        """Wait until a minute is over on the market's clock, and its last bars have come.

        Its bar holds the minute's live part, too: before that part has come over the stream, the fetched bar
        would take news away from it. A market that sends nothing any more is not waited for longer.
        """
        if end_ms in self._waited:
            return
        began = self._clock()
        waits = self._engine.market.clock.now_ms < end_ms
        while self._engine.market.clock.now_ms < end_ms and self._clock() - began < FINAL_SECONDS:
            await self._sleep(1.0)
        if waits:
            await self._sleep(SETTLE_SECONDS)
        self._waited.add(end_ms)

    async def _failed(self, exc: RestError) -> None:
        """Note a failure; where they follow each other, leave the provider alone for a while."""
        self._trouble = exc.reason
        if exc.status in _REFUSED:
            self._count("refused")
            self._refusals += 1
            if self._refusals >= GIVE_UP_AFTER:
                raise _Ended(f"the provider refuses bars: {exc.reason}")
            return
        self._count("not_asked" if not exc.asked else f"http_{exc.status}" if exc.status else "no_answer")
        self._refusals = 0
        if exc.status == 404:  # of this symbol alone
            self._answered += 1
            return
        self._failures += 1
        beyond = self._failures - DOWN_AFTER
        if exc.status == 200:  # of this symbol alone, perhaps: it is asked for again in another pass
            self._answered += 1
        if exc.asked and beyond < 0:
            return
        pause = max(min(DOWN_SECONDS * 2.0 ** min(max(beyond, 0), 8), MAX_DOWN_SECONDS), exc.retry_after)
        self._tell(RUNNING, f"the provider fails: {exc.reason}; next question in {pause:.0f} s")
        await self._sleep(pause)

    def _count(self, outcome: str) -> None:
        self.requests[outcome] = self.requests.get(outcome, 0) + 1


def _up(ms: float, length: int) -> int:
    """The next whole second or minute, or this one."""
    return -int(-ms // length) * length
