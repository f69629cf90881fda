"""The simulated market: advances in fixed steps of market time and yields events as wire text.

Everything comes from the seed and the steps taken, nothing from the wall clock or from who listens,
so that the same options give the same events, byte for byte.
"""

from __future__ import annotations

import math
import random
from collections import deque
from itertools import accumulate

from .calendar import is_trading_day, new_york, next_trading_day, previous_trading_day
from .shape import DayShape
from .state import SymbolState
from .story import Story
from .universe import build_universe

STEP_MS = 50  # market time of one step

_ARRIVALS = 0.87  # part of the rate that is trades and quotes; the bars they cause are the rest
_TRADES = 0.2  # of the arrivals; the others are quotes (2 trades to 8 quotes)
_BAR_DELAY_MS = 2_000  # a bar is published that long after its end ...
_BAR_SPREAD_MS = 400  # ... the bars of one second within that time
_TABLE = 8_191
_EXCHANGES = (12, 11, 19, 8, 10, 21, 15, 18, 7, 12, 11, 19)  # Nasdaq, Arca, BZX, EDGX and Nyse most
_LAST_MINUTES_MS = 25 * 60_000

Events = list[tuple[str, str, str]]  # topic, symbol, JSON object


class SyntheticMarket:
    """All symbols, and the clock that moves them."""

    def __init__(self, *, seed: int, symbols: int, rate: float, start_ms: int) -> None:
        """`rate`: events per second of market time, averaged over regular hours."""
        self.seed = seed
        self.universe = build_universe(seed, symbols)
        self.now_ms = start_ms // STEP_MS * STEP_MS
        self.states = [SymbolState(i, listing) for i, listing in enumerate(self.universe)]
        self.by_symbol = {state.symbol: state for state in self.states}
        self._rate = rate * _ARRIVALS
        self._rng = random.Random(f"market/{seed}")
        self._cumulative = list(accumulate(listing.weight for listing in self.universe))
        # Tables: drawing from them costs a fifth of calling gauss() and exp() for each event.
        self._gauss = [self._rng.gauss(0, 1) for _ in range(_TABLE)]
        self._sizes = [math.exp(1.2 * g - 0.72) for g in self._gauss]  # lognormal with mean 1
        self._carry = 0.0
        self._sequence = 0
        self._second: list[SymbolState] = []  # traded in the running second
        self._minute: list[SymbolState] = []
        self._due: dict[str, deque[tuple[int, str, str]]] = {
            "A": deque(),
            "AM": deque(),
        }  # (due ms, symbol, text)
        day = new_york(self.now_ms).date()
        self._begin_day(DayShape(day if is_trading_day(day) else previous_trading_day(day)))

    def _begin_day(self, shape: DayShape) -> None:
        self.shape = shape
        self.story = Story(self.seed, shape, self.universe, self.now_ms)
        self._next_runner = self._next_halt = 0
        self._resume: deque[tuple[int, SymbolState]] = deque()
        self._running: list[SymbolState] = []
        trades_a_day = self._rate * _TRADES * shape.total
        fraction = shape.fraction(self.now_ms)
        regular = self.now_ms > shape.open_ms  # at 09:30:00.000 nobody has opened yet
        rng = random.Random(f"day/{self.seed}/{shape.day}")
        for state in self.states:
            listing = state.listing
            gap = self.story.gaps.get(state.index, 0.0)
            drift = rng.gauss(0, 0.3) * listing.day_volatility
            state.new_day(max(0.02, state.prev[3] * (1 + gap + drift)), self.now_ms)
            activity = math.exp(rng.gauss(0, 0.45)) * (rng.uniform(3, 25) if gap else 1.0)
            state.size_mean = max(
                1.0, listing.avg_volume * activity / max(1e-9, trades_a_day * listing.weight)
            )
            if rng.random() < trades_a_day * listing.weight * fraction * 2:
                state.preset(
                    fraction, activity, rng.gauss(0, 0.4) * listing.day_volatility, self.now_ms, regular
                )

    def advance(self) -> Events:
        """Move on by one step of market time; the events of that step in their order."""
        now = self.now_ms
        self.now_ms = now + STEP_MS
        if now >= self.shape.end_ms + 120_000:
            return self._night()
        events: Events = []
        if now % 1_000 == 0:
            self._finish_bars(now, events)
        self._tell(now, events)
        level = self.shape.level(now)
        if level:
            self._carry += self._rate * level * STEP_MS / 1_000
            count = int(self._carry)
            self._carry -= count
            self._arrivals(now, count, events)
        for topic, due in self._due.items():
            while due and due[0][0] < now + STEP_MS:
                _, symbol, text = due.popleft()
                events.append((topic, symbol, text))
        return events

    def _night(self) -> Events:
        following = DayShape(next_trading_day(self.shape.day))
        if self.now_ms >= following.start_ms:
            for state in self.states:
                if state.last:
                    den = state.den
                    close = state.last / den
                    state.prev = (
                        (state.official_open or state.last) / den,
                        (state.regular_high or state.day_high) / den,
                        (state.regular_low or state.day_low) / den,
                        close,
                        float(state.volume),
                        round(state.turnover / state.volume / den, 4),
                    )
            self._begin_day(following)
        return []

    def _arrivals(self, now: int, count: int, events: Events) -> None:
        rng = self._rng
        picked = rng.choices(self.states, cum_weights=self._cumulative, k=count) if count else []
        if self._running:
            before = len(picked)
            for state in self._running:
                runner = state.runner
                if runner is not None:
                    expected = runner.arrivals * runner.heat(now) * self._rate * STEP_MS / 1_000
                    picked += [state] * int(expected + rng.random())
            if len(picked) > before:
                rng.shuffle(picked)
        if not picked:
            return
        step = STEP_MS / len(picked)
        regular = self.shape.open_ms <= now < self.shape.close_ms
        rnd, append, at = rng.random, events.append, float(now)
        for state in picked:
            at += step
            if state.halted:
                continue
            ms = min(int(at), now + STEP_MS - 1)
            if rnd() < _TRADES:
                append(("T", state.symbol, self._trade(state, ms, regular, events)))
            else:
                append(("Q", state.symbol, self._quote(state, ms)))

    def _quote(self, state: SymbolState, ms: int) -> str:
        """Move the fair price by a random walk and quote around it; the spread reverts to its mean."""
        rnd = self._rng.random
        gauss = self._gauss[int(rnd() * _TABLE)]
        elapsed = min(300_000, ms - state.moved_ms) / 1_000
        state.moved_ms = ms
        fair = state.fair * (1 + state.sigma * gauss * math.sqrt(elapsed))
        runner = state.runner
        if runner is not None:
            fair += 0.25 * (state.run_base * math.exp(runner.log_move(ms)) - fair)
        den = state.den
        state.fair = fair = max(fair, 2 / den)
        spread = max(1, int(state.spread + 0.5 * (state.base_spread - state.spread) + gauss * gauss * 0.7))
        state.spread = spread
        state.bid = bid = max(1, int(fair * den - spread * rnd()))
        state.ask = ask = bid + spread
        self._sequence += 1
        draw = int(rnd() * 1_000_000)
        return (
            f'{state.quote_head}{_EXCHANGES[draw % 12]},"bp":{bid / den},"bs":{1 + draw % 17},'
            f'"ax":{_EXCHANGES[draw % 11]},"ap":{ask / den},"as":{1 + draw % 23},"c":1,'
            f'"t":{ms},"q":{self._sequence},"z":{state.tape}}}'
        )

    def _trade(self, state: SymbolState, ms: int, regular: bool, events: Events) -> str:
        """One print at the bid, the ask or between, booked into the symbol's day."""
        rnd = self._rng.random
        draw = rnd()
        if draw < 0.44:
            price = state.bid
        elif draw < 0.9:
            price = state.ask
        else:
            price = state.bid + int((state.ask - state.bid + 1) * rnd())
        size = int(state.size_mean * self._sizes[int(rnd() * _TABLE)]) or 1
        if size > 100 and draw * 7 % 1 < 0.7:
            size -= size % 100
        draw = rnd()
        exchange = 4 if draw < 0.42 else _EXCHANGES[int(draw * 1_000) % 12]
        sets_price = size >= 100
        if regular and not state.official_open:
            size = max(100, size * 8 // 100 * 100)
            sets_price, exchange = True, (12 if state.tape == 3 else 10)
            conditions = '"c":[25],'
            # The official opening price repeats the print; it counts for nothing (SIP rules).
            if state.tape == 3:
                events.append(("T", state.symbol, self._trade_json(state, price, size, 12, '"c":[16],', ms)))
        elif not regular:
            conditions = '"c":[12],' if sets_price else '"c":[12,37],'
        elif not sets_price:
            conditions = '"c":[37],' if draw < 0.7 else '"c":[14,37,41],'
        else:
            conditions = "" if draw < 0.6 else '"c":[14,41],'
        if not state.second.count:
            self._second.append(state)
        if not state.minute.count:
            self._minute.append(state)
        state.trade(price, size, sets_price, regular, ms)
        return self._trade_json(state, price, size, exchange, conditions, ms)

    def _trade_json(
        self, state: SymbolState, price: int, size: int, exchange: int, conditions: str, ms: int
    ) -> str:
        self._sequence += 1
        number = self._sequence
        # Off-exchange prints carry the facility that reported them, a little after the fact.
        trf = f',"trfi":{201 + number % 3},"trft":{ms - number % 9}' if exchange == 4 else ""
        return (
            f'{state.trade_head}{exchange},"i":"{number}","z":{state.tape},"p":{price / state.den},'
            f'"s":{size},{conditions}"t":{ms},"q":{number}{trf}}}'
        )

    def _finish_bars(self, now: int, events: Events) -> None:
        """At the end of a second: its bars, the minute's where one ends, and LULD bands that moved."""
        self._finish("A", self._second, now, 1_000)
        if self.shape.open_ms <= now < self.shape.close_ms:
            late = self.shape.close_ms - now <= _LAST_MINUTES_MS
            for state in self._second:
                if not state.last:
                    continue
                reference = state.luld_reference
                if not reference or abs(state.last - reference) * 100 >= reference:
                    state.luld_reference = state.last
                    self._sequence += 1
                    text = state.luld_json(16 if reference else 21, now, self._sequence, late)
                    events.append(("LULD", state.symbol, text))
        for state in self._second:
            state.second.reset()
        self._second.clear()
        if now % 60_000 == 0:
            self._finish("AM", self._minute, now, 60_000)
            for state in self._minute:
                state.remember_minute(now - 60_000)
                state.minute.reset()
            self._minute.clear()

    def _finish(self, topic: str, traded: list[SymbolState], now: int, length_ms: int) -> None:
        due, count = self._due[topic], max(1, len(traded))
        for place, state in enumerate(traded):
            bar = state.second if topic == "A" else state.minute
            text = state.bar_json(topic, bar, now - length_ms, now)
            due.append((now + _BAR_DELAY_MS + place * _BAR_SPREAD_MS // count, state.symbol, text))

    def _tell(self, now: int, events: Events) -> None:
        """Begin and end runners and halts whose time has come."""
        runners, halts = self.story.runners, self.story.halts
        while self._next_runner < len(runners) and runners[self._next_runner].start_ms <= now:
            runner = runners[self._next_runner]
            self._next_runner += 1
            if now < runner.end_ms:
                state = self.states[runner.index]
                state.runner, state.run_base = runner, state.fair
                state.fair *= math.exp(runner.log_move(now))
                self._running.append(state)
        if self._running and now % 1_000 == 0:
            over = [state for state in self._running if state.runner and state.runner.end_ms <= now]
            for state in over:
                state.runner = None
                self._running.remove(state)
        late = self.shape.close_ms - now <= _LAST_MINUTES_MS
        while self._next_halt < len(halts) and halts[self._next_halt].start_ms <= now:
            halt = halts[self._next_halt]
            self._next_halt += 1
            state = self.states[halt.index]
            if now < halt.end_ms and not state.halted:
                state.halted = True
                self._resume.append((halt.end_ms, state))
                self._sequence += 1
                events.append(("LULD", state.symbol, state.luld_json(17, now, self._sequence, late)))
        while self._resume and self._resume[0][0] <= now:
            state = self._resume.popleft()[1]
            state.halted = False
            state.moved_ms = now
            self._sequence += 1
            events.append(("LULD", state.symbol, state.luld_json(18, now, self._sequence, late)))
