"""State of one symbol over one simulated day, and the bars made of its trades.

Prices are whole ticks here (`den` ticks make a dollar), so that no bar is off by a rounding.
"""

from __future__ import annotations

from .story import Runner
from .universe import Listing


class Bar:
    """Trades of one symbol in one second or minute. `high` is 0 until a trade may set a price."""

    __slots__ = ("close", "count", "high", "low", "open", "turnover", "volume")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything, for the next second or minute."""
        self.volume = self.count = self.turnover = 0
        self.open = self.high = self.low = self.close = 0

    def add(self, price: int, size: int, sets_price: bool) -> None:
        """Count one trade. Odd lots add volume, but set no open, high, low or close (SIP rules)."""
        self.volume += size
        self.count += 1
        self.turnover += price * size
        if sets_price:
            if not self.high:
                self.open = self.high = self.low = price
            elif price > self.high:
                self.high = price
            elif price < self.low:
                self.low = price
            self.close = price


class SymbolState:
    """One symbol today: its quote, its last price and its running day."""

    __slots__ = (
        "ask",
        "base_spread",
        "bid",
        "day_high",
        "day_low",
        "den",
        "fair",
        "halted",
        "index",
        "last",
        "listing",
        "luld_reference",
        "minute",
        "minute_json",
        "moved_ms",
        "official_open",
        "prev",
        "quote_head",
        "regular_high",
        "regular_low",
        "run_base",
        "runner",
        "second",
        "sigma",
        "size_mean",
        "spread",
        "symbol",
        "tape",
        "trade_head",
        "trade_ms",
        "turnover",
        "volume",
    )

    def __init__(self, index: int, listing: Listing) -> None:
        self.index = index
        self.listing = listing
        self.symbol = listing.symbol
        self.tape = listing.tape
        self.second = Bar()
        self.minute = Bar()
        self.trade_head = f'{{"ev":"T","sym":"{listing.symbol}","x":'
        self.quote_head = f'{{"ev":"Q","sym":"{listing.symbol}","bx":'
        # A day's move spread over the square root of its 23,400 seconds.
        self.sigma = listing.day_volatility / 153.0
        self.size_mean = 100.0
        self.prev = (listing.prev_close,) * 4 + (float(listing.avg_volume), listing.prev_close)
        self.new_day(listing.prev_close, 0)

    def new_day(self, fair: float, now_ms: int) -> None:
        """Forget the day: no volume, no open, a fresh quote around `fair` (USD)."""
        self.den = 100 if fair >= 1 else 10_000
        self.fair = fair
        self.base_spread = max(1.0, fair * self.den * (0.0001 + 0.0006 * min(1.0, self.index / 3_000)))
        self.spread = max(1, round(self.base_spread))
        self.bid = max(1, round(fair * self.den) - self.spread // 2 - 1)
        self.ask = self.bid + self.spread
        self.last = 0  # the last price a trade was allowed to set; 0 before
        self.volume = self.turnover = 0
        self.official_open = 0
        self.day_high = self.day_low = 0
        self.regular_high = self.regular_low = 0
        self.luld_reference = 0
        self.halted = False
        self.runner: Runner | None = None
        self.run_base = fair
        self.moved_ms = self.trade_ms = now_ms
        self.second.reset()
        self.minute.reset()
        self.minute_json = '{"av":0,"c":0,"h":0,"l":0,"n":0,"o":0,"t":0,"v":0,"vw":0}'

    def preset(self, fraction: float, activity: float, move: float, now_ms: int, regular: bool) -> None:
        """Start in the middle of a day that is `fraction` over, `activity` times as busy as usual.

        `move` places the day's range around the present price, as a fraction of it.
        """
        volume = int(self.listing.avg_volume * activity * fraction)
        if volume < 1:
            return
        den = self.den
        self.last = max(1, round(self.fair * den))
        self.day_high = max(self.last, round(self.last * (1 + abs(move))))
        self.day_low = max(1, min(self.last, round(self.last * (1 - abs(move) * 0.7))))
        self.volume = volume
        self.turnover = volume * max(1, (self.day_high + self.day_low + 2 * self.last) // 4)
        if regular:
            self.official_open = max(1, (self.day_low + self.last) // 2)
            self.regular_high, self.regular_low = self.day_high, self.day_low
        price = self.last / den
        self.minute_json = (
            f'{{"av":{volume},"c":{price},"h":{price},"l":{price},"n":1,"o":{price},'
            f'"t":{now_ms // 60_000 * 60_000 - 60_000},"v":{min(volume, 100)},"vw":{price}}}'
        )

    def trade(self, price: int, size: int, sets_price: bool, regular: bool, ms: int) -> None:
        """Book one trade of the day; the caller tells whether its conditions let it set prices."""
        self.volume += size
        self.turnover += price * size
        self.trade_ms = ms
        self.second.add(price, size, sets_price)
        self.minute.add(price, size, sets_price)
        if not sets_price:
            return
        self.last = price
        if price > self.day_high:
            self.day_high = price
        if price < self.day_low or not self.day_low:
            self.day_low = price
        if regular:
            if not self.official_open:
                self.official_open = price
            if price > self.regular_high:
                self.regular_high = price
            if price < self.regular_low or not self.regular_low:
                self.regular_low = price

    def bar_json(self, topic: str, bar: Bar, start_ms: int, end_ms: int) -> str:
        """The finished bar as on the wire; `bar` is left as it is.

        Where only odd lots traded, the bar stands flat at the last price that counted.
        """
        den = self.den
        if not bar.high:
            flat = self.last or round(bar.turnover / bar.volume)
            bar.open = bar.high = bar.low = bar.close = flat
        opened = f'"op":{self.official_open / den},' if self.official_open else ""
        decimals = f',"dv":"{bar.volume}.0","dav":"{self.volume}.0"' if topic == "AM" else ""
        return (
            f'{{"ev":"{topic}","sym":"{self.symbol}","v":{bar.volume},"av":{self.volume},{opened}'
            f'"vw":{round(bar.turnover / bar.volume / den, 4)},"o":{bar.open / den},"c":{bar.close / den},'
            f'"h":{bar.high / den},"l":{bar.low / den},"a":{round(self.turnover / self.volume / den, 4)},'
            f'"z":{bar.volume // bar.count},"s":{start_ms},"e":{end_ms}{decimals}}}'
        )

    def remember_minute(self, start_ms: int) -> None:
        """Keep the finished minute for REST snapshots."""
        bar, den = self.minute, self.den
        self.minute_json = (
            f'{{"av":{self.volume},"c":{bar.close / den},"h":{bar.high / den},"l":{bar.low / den},'
            f'"n":{bar.count},"o":{bar.open / den},"t":{start_ms},"v":{bar.volume},'
            f'"vw":{round(bar.turnover / bar.volume / den, 4)}}}'
        )

    def snapshot_json(self) -> str:
        """The symbol's part of a REST snapshot. As at the provider, `day` is zero until a regular trade."""
        den = self.den
        o, h, low, c, v, vw = self.prev
        last = (self.last or round(c * den)) / den
        change = round(last - c, 4)
        day = '{"c":0,"h":0,"l":0,"o":0,"v":0,"vw":0}'
        if self.official_open:
            day = (
                f'{{"c":{last},"h":{self.regular_high / den},"l":{self.regular_low / den},'
                f'"o":{self.official_open / den},"v":{self.volume},'
                f'"vw":{round(self.turnover / self.volume / den, 4)}}}'
            )
        return (
            f'{{"ticker":"{self.symbol}","todaysChangePerc":{round(change / c * 100, 4)},'
            f'"todaysChange":{change},"updated":{self.trade_ms * 1_000_000},"day":{day},'
            f'"min":{self.minute_json},"prevDay":{{"c":{c},"h":{h},"l":{low},"o":{o},"v":{v},"vw":{vw}}}}}'
        )

    def luld_band(self, last_minutes: bool) -> float:
        """Half width of the LULD band as a part of the reference price.

        By the previous close and tier (the 1,000 most active stand for tier 1); doubled in the
        last 25 minutes for tier 1 and for tier 2 up to $3. Source: LULD plan, see luldplan.com.
        """
        close = self.prev[3]
        tier1 = self.index < 1_000
        if close > 3:
            width = 0.05 if tier1 else 0.10
        elif close >= 0.75:
            width = 0.20
        else:
            width = min(0.75, 0.15 / close)
        return width * 2 if last_minutes and (tier1 or close <= 3) else width

    def luld_json(self, indicator: int, ms: int, sequence: int, last_minutes: bool) -> str:
        """A limit up / limit down message: the ticker is `T`, and `t` is in nanoseconds."""
        reference = self.luld_reference or self.last or round(self.fair * self.den)
        width = self.luld_band(last_minutes)
        high = round(reference * (1 + width)) / self.den
        low = max(1, round(reference * (1 - width))) / self.den
        return (
            f'{{"ev":"LULD","T":"{self.symbol}","h":{high},"l":{low},"i":[{indicator}],"z":{self.tape},'
            f'"t":{ms * 1_000_000 + sequence % 1_000_000},"q":{sequence}}}'
        )
