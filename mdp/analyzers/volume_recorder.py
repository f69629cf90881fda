"""Records each symbol's accumulated volume every 5 minutes of the market clock, for later days.

A slot's volume is what bars that start before its end had brought when the first bar from there on came;
bars that come later still count in later slots. It costs a comparison per batch, and about a millisecond
for 11,000 symbols at the end of a slot; packing is done in steps.

A slot is *covered* where something came in it (so that we were there), its end was witnessed in order,
and no outage of the feed was known at that moment. The last slot of a day is over with the day. Whoever
starts in mid-slot covers it all the same: `av` on the wire holds what was traded before. Where a feed
sends no `av`, a day is not covered any more after the first interruption.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, ClassVar

import msgspec

from mdp.analyzers.base import Analyzer, EventBatch, Output
from mdp.analyzers.state import Market, SymbolState
from mdp.analyzers.volume_history import (
    MAX_SYMBOLS,
    SLOT_MS,
    SLOTS,
    DayVolumes,
    VolumeHistory,
    pack_column,
)
from mdp.events import AGGREGATES, Number
from mdp.sessions import TradingDay

_NEVER = float("inf")
_DUMP_COLUMNS = 8  # in one record
_KEPT_DAYS = 4  # that wait to be written


class _Kept(msgspec.Struct, array_like=True):
    """What a snapshot holds of a day beside most of its columns."""

    day: str
    slot: int
    symbols: list[str]
    told: list[Number]
    known: list[tuple[int, int]]
    columns: dict[int, bytes]


class _Recording:
    """One day in the making."""

    def __init__(self, day: TradingDay) -> None:
        self.day = day.day
        self.start_ms = day.start_ms
        self.states: list[SymbolState] = []  # in the order in which they were seen
        self.told: list[Number] = []  # accumulated volume as of the newest column, by number of the symbol
        self.known: list[tuple[int, int]] = []
        self.columns: dict[int, bytes] = {}
        #: (slot, accumulated volumes at its end) that wait to be packed, in order.
        self.pending: deque[tuple[int, list[Number]]] = deque()
        self.slot = 0  # the one that ends next
        self.has_totals = (
            False  # bars carry the day's volume: those of the feed do, if not each that is told of
        )
        self.slots = self.counted = SLOTS
        self.fit(day)

    def fit(self, day: TradingDay) -> None:
        """The calendar may learn of an early close during the day."""
        self.slots = min((day.post_ms - day.start_ms) // SLOT_MS, SLOTS)
        self.counted = (day.close_ms - day.start_ms) // SLOT_MS if day.early_close else SLOTS

    @property
    def boundary_ms(self) -> float:
        """When the slot at hand ends; never, after the last."""
        return self.start_ms + (self.slot + 1) * SLOT_MS if self.slot < self.slots else _NEVER

    def pack_one(self) -> int:
        """Pack the oldest pending column; returns its slot."""
        slot, volumes = self.pending.popleft()
        told = self.told
        told.extend([0] * (len(volumes) - len(told)))
        changed = [i for i, volume in enumerate(volumes) if volume != told[i]]
        self.columns[slot] = pack_column(changed, [volumes[i] - told[i] for i in changed])
        self.known.append((slot, len(volumes)))
        self.told = volumes
        return slot

    def result(self) -> DayVolumes:
        """The day as far as it is packed."""
        symbols = [state.symbol for state in self.states]
        count = self.known[-1][1] if self.known else 0
        return DayVolumes(
            self.day, self.slots, self.counted, symbols[:count], list(self.known), dict(self.columns)
        )


class VolumeRecorder(Analyzer):
    """See the module. `Market.volume_history` is what it was last given by `use`.

    Args:
        market: Whose symbols are recorded.
        out: Not used.

    Attributes:
        missed: Tells of a market time (ms) whether the feed was interrupted then.
    """

    name: ClassVar[str] = "volume_history"
    queues: ClassVar[tuple[str, ...]] = (AGGREGATES,)
    flush_seconds: ClassVar[float] = 1.0

    def __init__(self, market: Market, out: Output) -> None:
        super().__init__(market, out)
        self.missed: Callable[[float], bool] = lambda _ms: False
        self._today: _Recording | None = None
        self._ended: deque[_Recording] = deque(maxlen=_KEPT_DAYS)
        self._count = 0  # of symbols that were there at the last look
        self._is_tail = False  # symbols that we do not have yet are the market's last ones
        self._boundary_ms = -_NEVER
        self._heard_ms = -_NEVER  # the market clock when a batch last came
        market.volume_history = VolumeHistory()

    def use(self, history: VolumeHistory) -> None:
        """Compare with this history from now on."""
        self.market.volume_history = history
        self.market.revision += 1

    @property
    def history(self) -> VolumeHistory:
        """The history in use."""
        history: VolumeHistory = self.market.volume_history
        return history

    @property
    def covered(self) -> int:
        """Slots of the present day that are covered so far."""
        today = self._today
        return 0 if today is None else len(today.known) + len(today.pending)

    def process(self, batch: EventBatch) -> None:
        market = self.market
        if len(market.symbols) != self._count:
            self._admit()
        now = market.clock.now_ms
        if now < self._boundary_ms:
            self._heard_ms = now
        else:
            self._end_slots(batch.events, now)

    def _admit(self) -> None:
        """Remember the states of new symbols: at the end of a day the market forgets them first."""
        today, symbols = self._today, self.market.symbols
        if today is None:
            return
        states = today.states
        if self._is_tail:
            new = list(islice(reversed(symbols.values()), max(len(symbols) - self._count, 0)))
            states.extend(reversed(new))
        else:
            have = {state.symbol for state in states}
            states.extend([state for symbol, state in symbols.items() if symbol not in have])
            self._is_tail = True
        del states[MAX_SYMBOLS:]
        self._count = len(symbols)

    def _end_slots(self, bars: list[Any], now: float) -> None:
        """The clock is past the end of the slot at hand; so are the bars, once one starts there."""
        day = self.market.clock.day
        if day is None:
            return
        today = self._today
        if today is None or today.day != day.day:
            today = self._begin(day)
        else:
            today.fit(day)
        newest = max([bar.start_timestamp for bar in bars if bar.start_timestamp <= now], default=0)
        end_ms = today.boundary_ms
        if newest < end_ms:
            # A trade moved the clock, bars of the slot are still on their way: `_heard_ms` stays as it is.
            if newest >= today.start_ms and newest >= end_ms - SLOT_MS:
                self._heard_ms = max(self._heard_ms, newest)
            self._boundary_ms = end_ms
            return
        following = min(int((newest - today.start_ms) // SLOT_MS), today.slots)
        # In a fast replay a batch holds minutes. Bars behind the newest prove nothing: late ones.
        heard, at = set(), self._heard_ms
        if at > 0:
            heard.add((at - today.start_ms) // SLOT_MS)
        for bar in bars:
            if at < bar.start_timestamp <= now:
                at = bar.start_timestamp
                heard.add((at - today.start_ms) // SLOT_MS)
        interrupted = False
        for slot in range(today.slot, following):
            end_ms = today.start_ms + (slot + 1) * SLOT_MS
            if slot in heard and not self.missed(end_ms):
                today.pending.append((slot, self._volumes(today, bars, end_ms, now)))
            else:
                interrupted = True
        today.has_totals = today.has_totals or any(bar.accumulated_volume is not None for bar in bars)
        if interrupted and not today.has_totals:
            following = today.slots  # sums of ours lack what was traded meanwhile, for all the day
        today.slot = following
        self._boundary_ms = today.boundary_ms
        self._heard_ms = newest

    @staticmethod
    def _volumes(today: _Recording, bars: list[Any], end_ms: float, now: float) -> list[Number]:
        """Accumulated volumes at the end of a slot: without those of bars that are past it already."""
        volumes = [state.accumulated_volume for state in today.states]
        before: dict[str, Number] = {}
        for bar in bars:
            if end_ms <= bar.start_timestamp <= now and bar.volume is not None:
                if bar.accumulated_volume is not None:
                    volume = bar.accumulated_volume - bar.volume
                    before[bar.symbol] = min(before.get(bar.symbol, volume), volume)
                else:  # summed by the market, from this batch's bars, too
                    before[bar.symbol] = before.get(bar.symbol, 0) - bar.volume
        if before:
            has_total = {bar.symbol: bar.accumulated_volume is not None for bar in bars}
            for i, state in enumerate(today.states):
                change = before.get(state.symbol)
                if change is not None:
                    volume = change if has_total[state.symbol] else volumes[i] + change
                    volumes[i] = max(min(volume, volumes[i]), 0)
        return volumes

    def _begin(self, day: TradingDay) -> _Recording:
        self._today = today = _Recording(day)
        self._boundary_ms = today.boundary_ms
        self._heard_ms = -_NEVER
        self._count, self._is_tail = 0, False
        self._admit()
        return today

    def on_day(self, day: TradingDay) -> None:
        """The day before is over; where the market went back in time it never was."""
        today = self._today
        if today is not None and day.start_ms >= today.start_ms + today.slots * SLOT_MS:
            self._end_last_slot(today)
            self._ended.append(today)
        if self.history.days and self.history.days[-1] >= day.day:
            self.use(VolumeHistory())  # of days that are not over yet
        self._begin(day)

    def end_day(self) -> None:
        """The session is over by the provider's time: nothing more comes in its last slot."""
        if self._today is not None:
            self._end_last_slot(self._today)
            self._boundary_ms = self._today.boundary_ms

    def _end_last_slot(self, today: _Recording) -> None:
        end_ms = today.boundary_ms
        if today.slot == today.slots - 1 and self._heard_ms >= end_ms - SLOT_MS and not self.missed(end_ms):
            today.pending.append((today.slot, [state.accumulated_volume for state in today.states]))
            today.slot += 1

    def flush(self) -> Iterator[None]:
        """Pack what waits, a column a step."""
        for recording in [*self._ended, self._today]:
            while recording is not None and recording.pending:
                recording.pack_one()
                yield

    def take_ended(self) -> list[DayVolumes]:
        """The days that are over and packed, each once. Whoever keeps them asks for it after flushes."""
        taken = []
        while self._ended and not self._ended[0].pending:
            taken.append(self._ended.popleft().result())
        return taken

    def so_far(self) -> DayVolumes | None:
        """The present day as far as it is packed; None before the first bar."""
        return None if self._today is None else self._today.result()

    def dump(self) -> Iterator[Any]:
        today = self._today
        if today is None:
            return
        done: set[int] = set()
        while today.pending:
            slot = today.pack_one()
            done.add(slot)
            yield {slot: today.columns[slot]}
        slots = [slot for slot in today.columns if slot not in done]
        for at in range(0, len(slots), _DUMP_COLUMNS):
            part = {slot: today.columns[slot] for slot in slots[at : at + _DUMP_COLUMNS]}
            done.update(part)
            yield part
        # The rest in one step, so that it fits together whatever was packed since.
        late = {slot: column for slot, column in today.columns.items() if slot not in done}
        count = len(today.told)
        symbols = [state.symbol for state in today.states[:count]]
        # Ends of slots that were seen and are not packed yet are lost with a kill: they come again as gaps.
        slot = today.pending[0][0] if today.pending else today.slot
        yield msgspec.to_builtins(
            _Kept(today.day.isoformat(), slot, symbols, today.told, today.known, late), builtin_types=(bytes,)
        )

    def hydrate(self, records: Iterable[Any]) -> None:
        """Go on with a day. The slot in which the process was down counts if a bar comes in it again."""
        columns: dict[int, bytes] = {}
        kept: _Kept | None = None
        for record in records:
            if isinstance(record, dict):
                columns.update(record)
            else:
                kept = msgspec.convert(record, _Kept)
        day = self.market.clock.day
        if kept is None or day is None or kept.day != day.day.isoformat():
            return
        columns.update(kept.columns)
        if set(columns) != {slot for slot, _ in kept.known}:
            return
        today = self._begin(day)
        today.slot, today.told, today.columns = kept.slot, kept.told, columns
        today.known = list(kept.known)
        today.states = [self.market.state_of(symbol) for symbol in kept.symbols]
        for state, volume in zip(today.states, kept.told, strict=True):
            state.accumulated_volume = max(state.accumulated_volume, volume)
        self._count, self._is_tail = -1, False
        self._boundary_ms = today.boundary_ms
