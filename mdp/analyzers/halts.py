"""Halts: which symbols do not trade now, which are about to stop, and each halt and resumption once.

Feeds `halts`, `halt:{S}`, `halts:active`. Rules (`docs/feeds.md`, "Halts"):

- The provider's LULD topic halts (indicator 17) and reopens (18), for Nasdaq listings. The exchange's list
  (`mdp.events.HaltNotice`) does it for all listings and gives reasons; it is configured by `[halts]`.
  Whoever comes first announces; the same halt from the other is none (`halt_state.MERGE_MS`).
- A halt lasts over 04:00; bands and counts do not. It ends by the tape's 18, by the exchange's word
  (`halt_state.GRACE_MS`), or because bars prove that the symbol trades: a lost message must not leave it
  halted for good.
- What comes before a halt, the limit state, is in `limit_state`. It is told by `halt:{S}` alone.

Each change of a halt is journaled before it leaves, so that after a kill nothing is announced twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from mdp.analyzers.base import Analyzer, EventBatch, Output
from mdp.analyzers.halt_state import (
    GRACE_MS,
    LULD,
    MERGE_MS,
    TRADES,
    HaltEvent,
    HaltRow,
    HaltState,
    record_of,
    state_of,
    values,
)
from mdp.analyzers.limit_state import LimitWatch
from mdp.analyzers.state import Market
from mdp.events import HALT_NOTICES, HALTS, QUOTES, HaltNotice, LimitUpLimitDown, Number, Quote
from mdp.feeds import HALT, HALTS_ACTIVE, is_symbol
from mdp.feeds import HALTS as HALTS_FEED
from mdp.sessions import TradingDay

#: Indicators of LULD messages (the provider's list of conditions and indicators).
_HALTED, _REOPENED = 17, 18
_OUTSIDE = 19  # bands outside of the hours in which they bind
_KNOWN = frozenset({15, 16, 21, 22, _HALTED, _REOPENED, _OUTSIDE})  # update, restated, band, republished

_LEAP_MS = 60_000  # as the market clock's: what is further ahead waits until the clock agrees
_OLD_MS = 86_400_000
_MAX_AHEAD = 1_000
_MAX_ACTIVE = 1_000  # rows of `halts:active`
#: Bars that prove trading: so many with different starts, all so long after the halt. One may be a late
#: report with a wrong time.
_PROOF_BARS = 3
_PROOF_MS = 60_000
_DUMP_STEP = 1_000


class Halts(Analyzer):
    """See the module."""

    name: ClassVar[str] = "halts"
    queues: ClassVar[tuple[str, ...]] = (HALTS, QUOTES, HALT_NOTICES)
    flush_seconds: ClassVar[float] = 1.0

    def __init__(self, market: Market, out: Output) -> None:
        super().__init__(market, out)
        self._states: dict[str, HaltState] = {}
        self.active: dict[str, HaltState] = {}  # those halted now
        self._limits = LimitWatch(market, self._note)
        self._ahead: deque[LimitUpLimitDown] = deque(maxlen=_MAX_AHEAD)
        self._changed: dict[str, HaltState] = {}  # to publish, in this step
        self._turned: dict[str, HaltState] = {}  # of them, those whose halt changed: to journal, too
        self._wanted = out.interest(HALT)
        self._list_wanted = out.interest(HALTS_ACTIVE)
        #: What was announced, by (event, who said so). Read by metrics.
        self.announced: dict[tuple[str, str], int] = {}
        #: What changed nothing, by reason. Read by metrics.
        self.ignored = dict.fromkeys(
            ("duplicate", "late", "unmatched_resumption", "unknown_indicator", "too_old", "ahead", "no_time",
             "not_a_symbol", "too_many_symbols"),
            0,
        )  # fmt: skip
        out.provide(HALT, self._row_of, lambda: list(self._states))
        out.provide(HALTS_ACTIVE, lambda _symbol: self._active_rows())

    # What comes in.

    def process(self, batch: EventBatch) -> None:
        events = batch.events
        kind = events[0].__class__
        if kind is Quote:
            if self._limits.near:
                self._limits.quotes(events)
                if self._changed:
                    self._leave()
            return
        day = self.market.clock.day
        if day is None:
            self.ignored["no_time"] += len(events)
            return
        if self._ahead:
            self._retry(day)
        if kind is HaltNotice:
            for notice in events:
                self._notice(notice, day)
        else:
            for event in events:
                self._message(event, day)
        self._leave()

    def _state(self, symbol: str) -> HaltState | None:
        state = self._states.get(symbol)
        if state is None:
            if not is_symbol(symbol):
                self.ignored["not_a_symbol"] += 1
            elif len(self._states) >= self.market.max_symbols:
                self.ignored["too_many_symbols"] += 1
            else:
                state = self._states[symbol] = HaltState(symbol)
        return state

    def _retry(self, day: TradingDay) -> None:
        """Take the messages whose time has come."""
        until = self.market.clock.now_ms + _LEAP_MS
        if any(event.timestamp <= until for event in self._ahead):
            ahead = list(self._ahead)
            self._ahead.clear()
            for event in ahead:
                self._message(event, day)

    def _message(self, event: LimitUpLimitDown, day: TradingDay) -> None:
        """A message of the tape."""
        at, now = event.timestamp, self.market.clock.now_ms
        if at > now + _LEAP_MS:
            # A stray, or the first after a quiet time: a halt from the future could never be resumed.
            if len(self._ahead) == _MAX_AHEAD:
                self.ignored["ahead"] += 1  # the oldest falls out
            self._ahead.append(event)
            return
        if at < now - _OLD_MS:
            self.ignored["too_old"] += 1
            return
        state = self._state(event.symbol)
        if state is None:
            return
        said = event.indicators
        codes = said if isinstance(said, list) else [] if said is None else [said]
        unknown = sum(code not in _KNOWN for code in codes)
        self.ignored["unknown_indicator"] += unknown
        if not unknown and _OUTSIDE not in codes:  # those outside of hours do not bind
            self._bind(state, event, day)  # first: what is announced shows them
        for code in codes:
            if code == _HALTED:
                if self._begin(state, at, LULD, day) and at >= day.start_ms:
                    self._announce(state, "halted", LULD)
            elif code == _REOPENED:
                self._resumed(state, at, LULD, day)

    def _bind(self, state: HaltState, event: LimitUpLimitDown, day: TradingDay) -> None:
        """Take the bands of a message, where it has some and they are the newest of the day."""
        at, high, low = event.timestamp, event.high_price or 0, event.low_price or 0
        if at >= state.band_timestamp and at >= day.start_ms and 0 < low <= high:
            if high != state.high or low != state.low:
                state.high, state.low = high, low
                self._note(state)
            state.band_timestamp = at

    def _notice(self, notice: HaltNotice, day: TradingDay) -> None:
        """One entry of an exchange's list: it comes again with every poll."""
        start, resume, now = notice.halt_timestamp, notice.resume_timestamp, self.market.clock.now_ms
        if start > now + _LEAP_MS:
            self.ignored["ahead"] += 1  # it comes again
            return
        known = self._states.get(notice.symbol)
        over = resume > 0 and resume + GRACE_MS <= notice.timestamp
        if over and start < day.start_ms and not (known and known.halted):
            return  # an old story
        state = self._state(notice.symbol)
        if state is None:
            return
        source = notice.source
        same = bool(state.start) and abs(start - state.start) <= MERGE_MS
        if not state.halted and not same:
            if state.knows(start) or not self._begin(state, start, source, day):
                return
            self._learn(state, notice)
            if over:  # before we could know of it: it counts, and is no news
                state.resume(resume, source)
                self._turn(state)
            elif start >= day.start_ms:
                self._announce(state, "halted", source)
            return
        if start < state.start and not same:
            return  # an older one
        self._learn(state, notice)  # also of another halt on top of this one: its reason holds now
        if state.halted and over and resume >= state.start:
            self._resumed(state, resume, source, day)
        elif not state.halted and not over and state.end_source == source:
            state.reopen()
            self._announce(state, "halted", source)

    def _learn(self, state: HaltState, notice: HaltNotice) -> None:
        """Reason, announced times and market of the halt."""
        said = (
            notice.reason_code,
            notice.quote_timestamp,
            notice.resume_timestamp,
            notice.listing_market,
            notice.pause_price,
        )
        if said != (state.code, state.quote_expected, state.expected, state.market, state.pause_price):
            state.code, state.quote_expected, state.expected, state.market, state.pause_price = said
            self._turn(state)

    # What follows from it.

    def _begin(self, state: HaltState, at: Number, source: str, day: TradingDay) -> bool:
        """A source says that a symbol was halted; returns whether it is now, and was not known to be."""
        became = state.halt(at, source, day.start_ms)
        if became != "duplicate":
            self._turn(state)
        if became != "halted":
            self.ignored[became] += 1
            return False
        return True

    def _resumed(self, state: HaltState, at: Number, source: str, day: TradingDay) -> None:
        """A source says that a symbol trades again."""
        again = state.again
        became = state.resume(at, source)
        if became in ("duplicate", "late"):
            self.ignored[became] += 1
            return
        self._turn(state)
        if became == "unmatched":
            # Told before its halt, or the halt was before our time: who was not told of one needs no end.
            self.ignored["unmatched_resumption"] += 1
            return
        self._announce(state, "resumed", source)
        if again > at and self._begin(state, again, LULD, day):
            self._announce(state, "halted", LULD)  # the next halt came before this one's end

    def _note(self, state: HaltState) -> None:
        self._changed[state.symbol] = state

    def _turn(self, state: HaltState) -> None:
        """Note that a symbol's halt changed."""
        self._changed[state.symbol] = self._turned[state.symbol] = state
        if state.halted:
            self.active[state.symbol] = state
        else:
            self.active.pop(state.symbol, None)

    def _announce(self, state: HaltState, event: str, source: str) -> None:
        self._turn(state)
        key = (event, source)
        self.announced[key] = self.announced.get(key, 0) + 1
        item = HaltEvent(*self._values(state), event=event)
        self.out.emit(HALTS_FEED, "", item, journal=True)

    def _leave(self) -> None:
        """Journal what must outlive us, publish what somebody wants."""
        turned, changed = self._turned, self._changed
        if turned:
            self.out.journal(self.name, [record_of(state) for state in turned.values()])
            self._turned = {}
            if self._list_wanted:
                self.out.publish(HALTS_ACTIVE, "", self._active_rows())
        if changed:
            self._changed = {}
            if self._wanted:
                for symbol in self._wanted.wanted(changed.keys()):
                    self._publish(changed[symbol])

    def _publish(self, state: HaltState) -> None:
        row = self._row(state)
        state.shown_price = row.last_price or 0
        self.out.publish(HALT, state.symbol, row)

    # Once a second: what follows from prices.

    def flush(self) -> Iterator[None]:
        day = self.market.clock.day
        if day is None:
            return
        if self._ahead:
            self._retry(day)
        for state in list(self.active.values()):
            self._look_for_trades(state, day)
        self._leave()  # before the loop is given back: nothing may leave that is not journaled
        yield from self._limits.look(self._states.values(), day)
        wanted = self._wanted
        # To those who want every symbol, prices alone are told where they matter.
        for symbol in wanted.symbols | self._limits.near.keys() if wanted.all else wanted.symbols:
            shown = self._states.get(symbol)
            if shown is not None and (self._price(symbol) or 0) != shown.shown_price:
                self._note(shown)
        self._leave()

    def _look_for_trades(self, state: HaltState, day: TradingDay) -> None:
        """Whether bars prove that a halted symbol trades."""
        known = self.market.symbols.get(state.symbol)
        if known is None or known.bar is None:
            return
        start = known.bar.start_timestamp
        if state.start < state.expected <= start:
            self._resumed(state, state.expected, TRADES, day)
        elif start >= state.start + _PROOF_MS and start > state.bar_start:
            state.bar_start = start
            state.bars += 1
            if state.bars >= _PROOF_BARS:
                self._resumed(state, start, TRADES, day)

    # What is asked for.

    def known(self, symbol: str) -> HaltState | None:
        """What is known of a symbol's trading, to be read; None where nothing is."""
        return self._states.get(symbol)

    def _price(self, symbol: str) -> Number | None:
        known = self.market.symbols.get(symbol)
        return None if known is None or known.bar is None else known.bar.close

    def _values(self, state: HaltState) -> tuple[Any, ...]:
        return values(state, self._price(state.symbol), self.market.clock.now_ms)

    def _row(self, state: HaltState) -> HaltRow:
        return HaltRow(*self._values(state))

    def _row_of(self, symbol: str) -> HaltRow | None:
        state = self._states.get(symbol)
        return None if state is None else self._row(state)

    def _active_rows(self) -> list[HaltRow]:
        newest = sorted(self.active.values(), key=lambda state: (-state.start, state.symbol))
        return [self._row(state) for state in newest[:_MAX_ACTIVE]]

    # Days and restarts.

    def on_day(self, day: TradingDay) -> None:
        now = self.market.clock.now_ms
        states = [state for state in self._states.values() if state.begin_day(day.start_ms, now)]
        self._states = {state.symbol: state for state in states}
        self.active = {state.symbol: state for state in states if state.halted}
        self._limits.near = {}
        self._changed = dict(self._states)
        # What the snapshot and the journal hold is of the day before, and not taken back after a restart.
        self._turned = dict(self._states)
        self._leave()

    def dump(self) -> Iterator[Any]:
        states = list(self._states.values())
        for at in range(0, len(states), _DUMP_STEP):
            yield [record_of(state) for state in states[at : at + _DUMP_STEP]]

    def hydrate(self, records: Iterable[Any]) -> None:
        for record in records:
            self.replay(record)

    def replay(self, record: Any) -> None:
        for one in record:
            state = state_of(one)
            self._states[state.symbol] = state
            if state.halted:
                self.active[state.symbol] = state
            else:
                self.active.pop(state.symbol, None)
