"""The trades of the day, by symbol: what counts, what came already, what may set which price.

One loop over each batch, for all analyzers of trades: whichever sees the batch first takes it. What a
trade may do is said by its conditions (`mdp.trade_rules`); here the rules are compiled into one dictionary
per kind of session, from the list of conditions to a number, because a few dozen lists make up the day.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from math import inf
from operator import attrgetter
from struct import error as Error
from typing import Any

from mdp.analyzers.base import EventBatch
from mdp.analyzers.seen import Seen, identity
from mdp.analyzers.state import MAX_PRICE, Market
from mdp.analyzers.trade_state import (
    AFTER,
    CLOSED,
    NO_EXCHANGE,
    PLACE_SHIFT,
    PRE,
    RECORD,
    RECORD_BYTES,
    REGULAR,
    WHOLE,
    SymbolTrades,
)
from mdp.events import Number, Trade
from mdp.feeds import is_symbol
from mdp.sessions import AFTER_HOURS, PRE_MARKET, TradingDay
from mdp.sessions import REGULAR as REGULAR_SESSION
from mdp.trade_rules import (
    DAY_HIGH_LOW,
    DROPPED_CORRECTIONS,
    EVERYTHING,
    HIGH_LOW,
    LAST,
    SHIPPED_TABLE,
    UNKNOWN,
    VOLUME,
    Rule,
    RuleTable,
)

#: Beyond it a print is an error of whoever sent it: no company has so many shares that ten billion change
#: hands at once.
MAX_SIZE = 10_000_000_000  # shares

_MAX_VENUE = 1 << 31
_MAX_LISTS = 4_096  # of conditions, remembered with their effect
_MAX_LISTED = 16  # conditions in one of them
_MAX_UNKNOWN = 1_000
_MAX_AHEAD = 1_000
_RETIRED_STEP = 20  # symbols of yesterday freed a batch: all at once took 20 ms
_PLACES = {PRE_MARKET: PRE, REGULAR_SESSION: REGULAR, AFTER_HOURS: AFTER}
_KEPT = (
    "count", "volume", "dollars", "max_size", "odd_count", "odd_volume", "first_ms", "newest_ms", "price",
    "price_ms", "exchange", "late", "extremes", "duplicates", "singles",
)  # fmt: skip
_values = attrgetter(*_KEPT)
_STEP = 16  # symbols dumped in one step: 3 ms at most, as the trades since the last time are summed up


class TradeLedger:
    """See the module. One for each `Market`: `TradeLedger.of(market)`.

    Attributes:
        symbols: Those with a trade today.
        rules: In force now; `use` changes them.
        ignored: Trades that changed nothing, by reason.
        effects: Trades that were taken and whose conditions forbade something or were unknown, by effect
            (a sum of `mdp.trade_rules` flags).
        unknown: Condition numbers that no list knows, in order of appearance, 1,000 at most.
        on_unknown: Called once for each of them.
        loose_trades: Of a symbol, that `dump` writes as they are instead of summing them up.
    """

    def __init__(self, market: Market) -> None:
        self.symbols: dict[str, SymbolTrades] = {}
        self.rules = SHIPPED_TABLE
        self.ignored = dict.fromkeys(
            ("duplicate", "corrected", "implausible_price", "implausible_size", "other_day", "ahead_of_clock",
             "not_a_symbol", "too_many_symbols"),
            0,
        )  # fmt: skip
        self.effects = [0] * (2 * UNKNOWN)
        self.unknown: dict[Number, None] = {}
        self.on_unknown: Callable[[Number], object] = lambda _number: None
        self.loose_trades = 32  # a kilobyte
        self._market = market
        self._regular: dict[tuple[Number, ...], int] = {}
        self._extended: dict[tuple[Number, ...], int] = {}
        self._taken: EventBatch | None = None  # this batch was taken; to be seen by one more analyzer
        self.seen = Seen()
        #: Trades that the market clock does not believe yet; they wait until it does, as bars do.
        self._ahead: deque[Trade] = deque(maxlen=_MAX_AHEAD)
        self._ahead_ms: float = inf  # the oldest of them
        self._retired: list[SymbolTrades] = []

    @classmethod
    def of(cls, market: Market) -> TradeLedger:
        """The market's ledger, made at the first call."""
        ledger = market.trades
        if ledger is None:
            ledger = market.trades = cls(market)
        assert isinstance(ledger, TradeLedger)
        return ledger

    def use(self, rules: RuleTable) -> None:
        """Go by other rules from the next trade on; what was counted stays as it was."""
        self.rules = rules
        self._regular.clear()
        self._extended.clear()

    def trade_count(self, symbol: str) -> int:
        """Trades of the day whose shares count; 0 for a symbol without one."""
        known = self.symbols.get(symbol)
        return known.trade_count if known is not None else 0

    def excluded(self) -> dict[str, int]:
        """Trades that were taken, by what their conditions forbade them; one may be in several."""
        totals = {"high_low": 0, "last": 0, "volume": 0, "unknown_condition": 0}
        for effect, count in enumerate(self.effects):
            if count:
                totals["high_low"] += 0 if effect & HIGH_LOW else count
                totals["last"] += 0 if effect & LAST else count
                totals["volume"] += 0 if effect & VOLUME else count
                totals["unknown_condition"] += count if effect & UNKNOWN else 0
        return totals

    @property
    def waiting(self) -> Iterable[Trade]:
        """Those that wait for the market clock."""
        return self._ahead

    def recall(self, trades: Iterable[Trade]) -> None:
        """Remember trades that are in the day's numbers already: they are repeats when they come again.

        Args:
            trades: As they came, in order, with times in ms; also those that did not count.
        """
        day = self._market.clock.day
        if day is None:
            return
        latest = self._market.clock.now_ms + self._market.clock.LEAP_MS
        waiting = {identity(trade) for trade in self._ahead}
        self.seen.admit(
            [
                trade
                for trade in trades
                if day.start_ms <= trade.timestamp < day.end_ms
                and trade.timestamp <= latest
                and 0.0 < trade.price < MAX_PRICE
                and 0 <= trade.size < MAX_SIZE
                and trade.correction not in DROPPED_CORRECTIONS
                and not (waiting and identity(trade) in waiting)
            ]
        )

    def start_day(self) -> None:
        """A trading day began: forget yesterday's."""
        self._retired.extend(self.symbols.values())
        self.symbols = {}
        self.seen.day += 1
        self._taken = None

    def take(self, batch: EventBatch) -> None:
        """Take a batch of trades, once however many analyzers bring it."""
        if batch is self._taken:
            self._taken = None
            return
        self._taken = batch
        market = self._market
        market.revision += 1
        day = market.clock.day
        events: list[Trade] = batch.events
        if day is None:  # not a single time that a market can have
            self.ignored["other_day"] += len(batch.events)
            return
        if self._retired:
            del self._retired[-_RETIRED_STEP:]
        latest = market.clock.now_ms + market.clock.LEAP_MS
        if self._ahead_ms <= latest:
            events = [*self._due(latest), *events]
        events, repeated = self.seen.admit(events)
        usual = market.session
        begin, until = _bounds(day, usual)
        until = min(until, latest)
        usual_place = _PLACES.get(usual, CLOSED)
        usual_known, usual_plain = self._compiled(usual_place)
        get = self.symbols.get
        ignored, effects = self.ignored, self.effects
        pack = RECORD.pack_into
        for trade in events:
            ms = trade.timestamp
            if begin <= ms < until:
                place, known, plain = usual_place, usual_known, usual_plain
            else:
                if not day.start_ms <= ms < day.end_ms or ms > latest:
                    self._misplaced(trade, latest)
                    continue
                place = _PLACES.get(day.session(ms), CLOSED)
                known, plain = self._compiled(place)
            price = trade.price
            size = trade.size
            if not (0.0 < price < MAX_PRICE and 0 <= size < MAX_SIZE):
                self.seen.forget(trade)
                ignored["implausible_size" if 0.0 < price < MAX_PRICE else "implausible_price"] += 1
                continue
            if trade.correction is not None and trade.correction in DROPPED_CORRECTIONS:
                self.seen.forget(trade)
                ignored["corrected"] += 1
                continue
            symbol = trade.symbol
            state = get(symbol)
            if state is None:
                state = self._first(symbol)
                if state is None:
                    continue
            conditions = trade.conditions
            if not conditions:
                effect = plain
            else:
                try:
                    effect = known[tuple(conditions)]  # type: ignore[arg-type]
                except (KeyError, TypeError):  # new, or a number alone
                    effect = self._learn(conditions, known)
                if effect != plain:
                    effects[effect] += 1
            code = effect | place << PLACE_SHIFT
            if price.__class__ is int:
                code |= WHOLE
            if effect & VOLUME:
                at = state.at
                try:
                    pack(state.ring, at, size, ms, price, code, trade.exchange)
                except Error:
                    pack(state.ring, at, size, ms, price, code, _venue(trade.exchange))
                state.at = at = at + RECORD_BYTES
                if at == state.end:
                    state.turn()
            else:
                state.single(price, ms, code, _venue(trade.exchange))
        if repeated:  # at last: the trade that it repeats may be its symbol's first, of this batch
            self._repeated(repeated, latest)

    def _compiled(self, place: int) -> tuple[dict[tuple[Number, ...], int], int]:
        """The rules as they are in a session, and the effect of a trade without conditions."""
        if place == REGULAR:
            return self._regular, EVERYTHING
        return self._extended, EVERYTHING | DAY_HIGH_LOW

    def dump(self) -> Iterator[Any]:
        """The rules and the day's numbers, in steps. Windows and what came already are not kept."""
        rules = self.rules
        yield ["rules", rules.source, rules.dated, [_rule_record(rule) for rule in rules.rules.values()]]
        symbols = list(self.symbols.items())
        for at in range(0, len(symbols), _STEP):
            yield [
                "trades",
                [_record(name, known, self.loose_trades) for name, known in symbols[at : at + _STEP]],
            ]

    def hydrate(self, records: Iterable[Any]) -> None:
        """Take back what `dump` gave."""
        for record in records:
            if record[0] == "rules":
                _, source, dated, rules = record
                if source != SHIPPED_TABLE.source:  # the program may have brought a newer one
                    self.use(RuleTable({rule[0]: Rule(*rule) for rule in rules}, source, dated))
                continue
            for name, *values in record[1]:
                # "day": as it was written up to version 0.3
                records = values.pop(0) if record[0] == "trades" else b""
                known = self.symbols[name] = SymbolTrades()
                for field, value in zip(_KEPT, values, strict=True):
                    setattr(known, field, value)
                known.late = tuple(known.late) if known.late else None  # type: ignore[assignment]
                if records:
                    known.add_records(records)

    def _repeated(self, trades: list[Trade], latest: float) -> None:
        for trade in trades:
            if trade.timestamp > latest:
                self.wait(trade)  # perhaps of the next day, where the same id is another trade
                continue
            if trade.correction is not None and trade.correction in DROPPED_CORRECTIONS:
                self.ignored["corrected"] += 1  # as where it came in another batch than the one it repeats
                continue
            self.ignored["duplicate"] += 1
            known = self.symbols.get(trade.symbol)
            if known is not None:
                known.duplicates += 1

    def _first(self, symbol: str) -> SymbolTrades | None:
        if len(self.symbols) >= self._market.max_symbols:
            self.ignored["too_many_symbols"] += 1
            return None
        if not is_symbol(symbol):
            self.ignored["not_a_symbol"] += 1
            return None
        known = self.symbols[symbol] = SymbolTrades()
        return known

    def _misplaced(self, trade: Trade, latest: float) -> None:
        """A trade of another day, or one further ahead than the clock believes."""
        self.seen.forget(trade)
        if trade.timestamp <= latest:
            self.ignored["other_day"] += 1
            return
        self.wait(trade)

    def wait(self, trade: Trade) -> None:
        """Let a trade wait until the market clock believes its time."""
        if len(self._ahead) == _MAX_AHEAD:
            self.ignored["ahead_of_clock"] += 1  # the oldest falls out
        self._ahead.append(trade)
        self._ahead_ms = min(self._ahead_ms, trade.timestamp)

    def _due(self, latest: float) -> list[Trade]:
        """Those that waited and whose time has come."""
        due = [trade for trade in self._ahead if trade.timestamp <= latest]
        self._ahead = deque((t for t in self._ahead if t.timestamp > latest), maxlen=_MAX_AHEAD)
        self._ahead_ms = min((trade.timestamp for trade in self._ahead), default=inf)
        return due

    def _learn(self, conditions: list[Number] | Number, known: dict[tuple[Number, ...], int]) -> int:
        """The effect of a list of conditions that is not known yet."""
        effect = self.rules.effect(conditions, extended=known is self._extended)
        if effect & UNKNOWN:
            for number in self.rules.unknown(conditions):
                if number not in self.unknown and len(self.unknown) < _MAX_UNKNOWN:
                    self.unknown[number] = None
                    self.on_unknown(number)
        if isinstance(conditions, list) and len(conditions) <= _MAX_LISTED:
            if len(known) >= _MAX_LISTS:
                known.clear()
            known[tuple(conditions)] = effect
        return effect


def _bounds(day: TradingDay, session: str) -> tuple[Number, Number]:
    """Begin and end of a session in ms; of the closed hours where there is none of the name."""
    if session == PRE_MARKET:
        return day.start_ms, day.open_ms
    if session == REGULAR_SESSION:
        return day.open_ms, day.close_ms
    if session == AFTER_HOURS:
        return day.close_ms, day.post_ms
    return day.post_ms, day.end_ms


def _venue(exchange: Number | None) -> int:
    """An exchange as a record holds it: what is no such number is none."""
    if exchange is None or exchange != int(exchange) or not 0 <= exchange < _MAX_VENUE:
        return NO_EXCHANGE
    return int(exchange)


def _record(symbol: str, known: SymbolTrades, loose: int) -> list[Any]:
    records = known.loose_records(loose)  # first: the values may change by it
    return [symbol, records, *_values(known)]


def _rule_record(rule: Rule) -> list[Any]:
    return [rule.number, rule.name, rule.high_low, rule.last, rule.volume]
