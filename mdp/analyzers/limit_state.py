"""Which symbols are in a limit state: their next quote or trade may halt them.

Limit state, in regular hours: the national best bid equals the upper band, or the best offer the lower one,
and the quote is not crossed; after 15 s of it the listing exchange pauses trading (LULD plan, section VI.B,
luldplan.com). Looking at every quote of the market would cost too much and tell nothing: only those of
symbols whose last price is near a band are looked at. Where they do not come (the plan lacks them), a last
price at a band stands in, and `basis` says "trade".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from mdp.analyzers.halt_state import HaltState, Side
from mdp.analyzers.state import Market
from mdp.events import Quote, milliseconds
from mdp.sessions import REGULAR, TradingDay

_NEAR = 0.01  # of the band: within it a symbol's quotes are looked at
_QUOTE_MS = 60_000  # so long a quote outweighs prices
_PRICE_MS = 15_000  # an older price proves no limit state: none lasts longer
_LEAP_MS = 60_000  # as the market clock's: a quote further ahead is a stray
_MAX_NEAR = (
    1_000  # on the day when the whole market is near a band, looking at each quote would cost too much
)
_STEP = 1_000  # symbols looked at before the loop is given back: below 1 ms


class LimitWatch:
    """Keeps `side`, `basis`, `side_since` and `quote_timestamp` of `HaltState`.

    Args:
        market: For last prices and the time.
        changed: Called with a symbol's state whenever its limit state began or ended.
    """

    def __init__(self, market: Market, changed: Callable[[HaltState], None]) -> None:
        self._market = market
        self._changed = changed
        self.near: dict[str, HaltState] = {}  # those whose quotes are looked at

    def quotes(self, quotes: list[Quote]) -> None:
        """Take a batch of quotes. Costs nothing while no symbol is near a band."""
        near = self.near
        if near:
            for quote in [quote for quote in quotes if quote.symbol in near]:
                self._quote(quote, near[quote.symbol])

    def _quote(self, quote: Quote, state: HaltState) -> None:
        at = milliseconds(quote.timestamp)
        if state.halted or not state.high:
            return
        if at < state.quote_timestamp or at > self._market.clock.now_ms + _LEAP_MS:
            return
        state.quote_timestamp = at
        bid, ask = quote.bid_price or 0, quote.ask_price or 0
        side: Side = ""
        if not 0 < ask < bid:
            if bid >= state.high:
                side = "upper"
            elif 0 < ask <= state.low:
                side = "lower"
        self._set(state, side, "quote", at)

    def look(self, states: Iterable[HaltState], day: TradingDay) -> Iterator[None]:
        """Find out whose last prices are near a band now. Gives the loop back every thousand symbols."""
        market = self._market
        near: dict[str, HaltState] = {}
        if market.session == REGULAR:
            get = market.symbols.get
            for count, state in enumerate(list(states), 1):
                if not count % _STEP:
                    yield
                if not state.high or state.halted:
                    continue
                known = get(state.symbol)
                if known is None or known.bar is None:
                    continue
                price = known.bar.close
                if state.low * (1 + _NEAR) < price < state.high * (1 - _NEAR) and not state.side:
                    continue
                if len(near) >= _MAX_NEAR and not state.side:
                    continue
                near[state.symbol] = state
                now = market.clock.now_ms
                if now - state.quote_timestamp > _QUOTE_MS:
                    bar = known.bar
                    ended = bar.end_timestamp or bar.start_timestamp
                    side: Side = ""
                    if bar.start_timestamp >= day.open_ms and now - ended <= _PRICE_MS:
                        side = "upper" if price >= state.high else "lower" if price <= state.low else ""
                    self._set(state, side, "trade", now)
        for state in self.near.values():
            if state.symbol not in near:
                state.quote_timestamp = 0
                self._set(state, "", "", 0)
        self.near = near

    def _set(self, state: HaltState, side: Side, basis: str, at: float) -> None:
        if side != state.side:
            state.side, state.side_since = side, at if side else 0
            self._changed(state)
        state.basis = basis if side else ""
