"""Frames of a synthetic market, made fast enough to outrun the platform from one core.

Encoding every event with a JSON library costs more than the platform needs to process it, so a
pool of frames is encoded once and sent in turn. Three things keep a cycled pool a believable market:

- Times, sequence numbers and trade ids are markers of fixed width in the encoded text, replaced for
  each sending by one scan of C code (0.05 us an event): no event is ever sent twice.
- Accumulated volumes are counted at each sending, so they only grow.
- At each turn one in 32 of a frame's events is drawn and encoded anew (symbol and price), so
  prices go on walking: new highs and lows come at the decaying rate of a random walk.

Everything follows from the seed and the order of calls: two sources made alike send the same bytes.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from itertools import accumulate
from typing import Literal

import msgspec

Mix = Literal["all", "aggregates"]

POOL_EVENTS = 200_000  # encoded ahead: about 35 MB
RENEW_EVERY = 32  # turns until every event of a frame was drawn anew
WINDOW_FRAMES = 11  # of 100 trades each, to fill a window of 1,000 with some to spare
FILL_EVENTS = 100  # of a frame in the fill phase

_WEIGHTS: dict[Mix, tuple[int, int, int]] = {"all": (2, 8, 1), "aggregates": (0, 0, 1)}  # T, Q, A
_TIME = b"@" * 13  # epoch ms
_END = b"&" * 13  # the same a second later
_NUMBER = b"#" * 7  # of the frame
_FIRST_NUMBER = 1_000_000  # seven digits from the first frame to the nine millionth
_VOLATILITY = 0.0006  # of one step of a price, about what a liquid small cap does in a second
_CONDITIONS = (b"[37]", b"[14,41]", b"[]", b"[14,37,41]", b"[37]", b"[10]", b"[41]", b"[14]")
_EXCHANGES = (4, 4, 4, 8, 11, 12, 15, 19)
_SIZES = (1, 5, 20, 50, 100, 100, 200, 500)
_LOTS = (1, 10, 100)


class FrameOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a source sends. Equal options send equal bytes."""

    seed: int = 1
    symbols: int = 11_000
    zipf: float = 0.9  # activity of the symbol of rank r is proportional to r ** -zipf
    events_per_frame: int = 100
    mix: Mix = "all"  # trades:quotes:aggregates 2:8:1, or aggregates only


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame ready for the wire, and how many events of each type it holds."""

    data: bytes
    trades: int
    quotes: int
    aggregates: int

    @property
    def events(self) -> int:
        """All of them."""
        return self.trades + self.quotes + self.aggregates


class Listing(msgspec.Struct, frozen=True, gc=False):
    """A symbol and what the provider's REST endpoints know of it. Prices in USD."""

    symbol: str
    previous_close: float
    previous_volume: int
    official_open: float
    free_float: int


class _Bar:
    """An aggregate of a pooled frame: everything but its accumulated volume."""

    __slots__ = ("after", "before", "slot", "symbol", "volume")

    def __init__(self, slot: int, symbol: int, before: bytes, volume: int, after: bytes) -> None:
        self.slot = slot
        self.symbol = symbol
        self.before = before
        self.volume = volume
        self.after = after


class _Pooled:
    """One frame of the pool. `kinds` never changes; `texts` and `bars` are renewed bit by bit."""

    __slots__ = ("bars", "counts", "kinds", "taken", "texts")

    def __init__(self, kinds: str) -> None:
        self.kinds = kinds
        self.texts: list[bytes] = [b""] * len(kinds)
        self.bars: dict[int, _Bar] = {}  # slot -> bar
        self.taken: set[int] = set()  # symbols of the bars
        self.counts = (kinds.count("T"), kinds.count("Q"), kinds.count("A"))


def ticker(index: int) -> str:
    """The name of a symbol by its rank: two to four letters, each rank another one."""
    index += 26
    letters = ""
    while index >= 0:
        letters = chr(65 + index % 26) + letters
        index = index // 26 - 1
    return letters


def listings(options: FrameOptions) -> list[Listing]:
    """The symbols of a source, most active first, with their reference values."""
    rng = random.Random(f"listings {options.seed}")
    found = []
    for rank in range(options.symbols):
        price = round(math.exp(rng.uniform(math.log(0.8), math.log(400))), 2)
        gap = rng.gauss(0, 0.02) + (rng.uniform(0.1, 0.6) if rng.random() < 0.01 else 0)
        volume = int(4e7 * (rank + 1) ** -options.zipf) + 1_000
        found.append(
            Listing(
                symbol=ticker(rank),
                previous_close=price,
                previous_volume=volume,
                official_open=round(max(price * (1 + gap), 0.05), 2),
                free_float=int(volume * rng.uniform(5, 60)),
            )
        )
    return found


class Market:
    """Symbols with prices that walk and volumes that grow; encodes single events of them."""

    def __init__(self, options: FrameOptions) -> None:
        self.listings = listings(options)
        rng = random.Random(f"market {options.seed}")
        self._random = rng.random
        self._gauss = rng.gauss
        self._names = [listing.symbol.encode() for listing in self.listings]
        self._prices = [listing.official_open for listing in self.listings]
        #: Accumulated volume of the day by symbol index, as last sent.
        self.volumes = [listing.previous_volume // 20 for listing in self.listings]
        shares = list(accumulate((rank + 1) ** -options.zipf for rank in range(options.symbols)))
        self._shares, self._total = shares, shares[-1]

    def draw(self) -> int:
        """Index of a symbol, by activity."""
        return bisect_left(self._shares, self._random() * self._total)

    def trade(self, symbol: int, slot: int) -> bytes:
        """One trade at the present price, with markers."""
        drawn = int(self._random() * 512)  # three choices of eight; `random.choice` costs as much as the rest
        price = self._walk(symbol)
        return (
            b'{"ev":"T","sym":"%b","x":%d,"i":"%b%03d","z":%d,"p":%b,"s":%d,"c":%b,"t":%b,"q":%b%02d}'
        ) % (
            self._names[symbol],
            _EXCHANGES[drawn & 7],
            _NUMBER,
            slot,
            symbol % 3 + 1,
            _price(price),
            _SIZES[drawn >> 3 & 7],
            _CONDITIONS[drawn >> 6],
            _TIME,
            _NUMBER,
            slot % 100,
        )

    def quote(self, symbol: int, slot: int) -> bytes:
        """One NBBO quote around the present price, with markers."""
        drawn = int(self._random() * 65_536)
        price = self._prices[symbol]
        spread = max(0.01, price * 0.0002)
        return (
            b'{"ev":"Q","sym":"%b","bx":%d,"bp":%b,"bs":%d,"ax":%d,"ap":%b,"as":%d,"c":0,"i":[604],'
            b'"t":%b,"q":%b%02d,"z":%d}'
        ) % (
            self._names[symbol],
            _EXCHANGES[drawn & 7],
            _price(price - spread / 2),
            1 + (drawn >> 6 & 31),
            _EXCHANGES[drawn >> 3 & 7],
            _price(price + spread / 2),
            1 + (drawn >> 11),
            _TIME,
            _NUMBER,
            slot % 100,
            symbol % 3 + 1,
        )

    def bar(self, symbol: int, slot: int) -> _Bar:
        """One second's aggregate around the present price, with markers, in two halves."""
        random = self._random
        opened = self._prices[symbol]
        close = self._walk(symbol)
        high = max(opened, close) * (1 + random() * _VOLATILITY / 4)
        low = min(opened, close) * (1 - random() * _VOLATILITY / 4)
        volume = int(1 + random() * 60) * _LOTS[int(random() * 3)]
        official = self.listings[symbol].official_open
        after = b',"op":%b,"vw":%.4f,"o":%b,"c":%b,"h":%b,"l":%b,"a":%.4f,"z":%d,"s":%b,"e":%b}' % (
            _price(official),
            (high + low + close) / 3,
            _price(opened),
            _price(close),
            _price(high),
            _price(low),
            (official + close) / 2,
            20 + int(random() * 280),
            _TIME,
            _END,
        )
        before = b'{"ev":"A","sym":"%b","v":%d,"av":' % (self._names[symbol], volume)
        return _Bar(slot, symbol, before, volume, after)

    def count(self, bar: _Bar) -> bytes:
        """The text of a bar that is about to be sent: its volume is added to its symbol's day."""
        volumes = self.volumes
        volumes[bar.symbol] = accumulated = volumes[bar.symbol] + bar.volume
        return b"%b%d%b" % (bar.before, accumulated, bar.after)

    def _walk(self, symbol: int) -> float:
        price = self._prices[symbol] * (1 + self._gauss(0, _VOLATILITY))
        self._prices[symbol] = price = max(price, 0.02)
        return price


def _price(price: float) -> bytes:
    return b"%.4f" % price if price < 1 else b"%.2f" % price


def stamp(texts: list[bytes], market_ms: int, number: int) -> bytes:
    """The frame of these event texts at a market time (epoch ms), as the `number`th frame sent."""
    return b"[%b]" % b",".join(texts).replace(_TIME, b"%d" % market_ms).replace(
        _END, b"%d" % (market_ms + 1_000)
    ).replace(_NUMBER, b"%d" % (_FIRST_NUMBER + number))


class FrameSource:
    """The endless stream of frames of one run: first the fill, where asked for, then the mix."""

    def __init__(self, options: FrameOptions, *, pool_events: int = POOL_EVENTS) -> None:
        self.options = options
        self.market = Market(options)
        self.numbered = 0  # frames made
        self._pool = self._make_pool(max(pool_events // options.events_per_frame, 1))
        self._next = 0
        self._turn = 0

    @property
    def mean_bytes(self) -> int:
        """Bytes of a frame of the mix, about."""
        sample = self._pool[:50]
        return sum(sum(map(len, p.texts)) + 60 * len(p.bars) for p in sample) // len(sample)

    def next(self, market_ms: int) -> Frame:
        """The next frame of the mix, all its events at this market time (epoch ms)."""
        pooled = self._pool[self._next]
        if self._turn:
            self._renew(pooled)
        texts = pooled.texts
        count = self.market.count
        for slot, bar in pooled.bars.items():
            texts[slot] = count(bar)
        data = stamp(texts, market_ms, self.numbered)
        self.numbered += 1
        self._next += 1
        if self._next == len(self._pool):
            self._next = 0
            self._turn += 1
        return Frame(data, *pooled.counts)

    def fill(self, market_ms: int, full_windows: int = 0) -> list[Frame]:
        """Frames that show every symbol (a bar each, and a trade and a quote with mix "all").

        With `full_windows`, that many symbols then get 1,100 trades each. Times go on by a
        millisecond a frame. Encoded at once: 2,000 windows are 250 MB, so ask in portions with
        `fill_parts`.
        """
        return [frame for part in self.fill_parts(full_windows) for frame in part(market_ms)]

    def fill_parts(self, full_windows: int = 0) -> list[_FillPart]:
        """The fill in portions, each made when it is called with its market time."""
        size = FILL_EVENTS
        symbols = range(self.options.symbols)
        parts = [_FillPart(self, "A", symbols[at : at + size]) for at in range(0, len(symbols), size)]
        if self.options.mix == "all":
            for kind in "TQ":
                parts += [
                    _FillPart(self, kind, symbols[at : at + size]) for at in range(0, len(symbols), size)
                ]
            full = symbols[:full_windows]
            parts += [_FillPart(self, "T", [symbol] * size, WINDOW_FRAMES) for symbol in full]
        return parts

    def _make_pool(self, frames: int) -> list[_Pooled]:
        weights = _WEIGHTS[self.options.mix]
        owed = [0.0, 0.0, 0.0]
        order = random.Random(f"order {self.options.seed}")
        pool = []
        for _ in range(frames):
            kinds: list[str] = []
            for _ in range(self.options.events_per_frame):
                owed = [debt + weight for debt, weight in zip(owed, weights, strict=True)]
                kind = owed.index(max(owed))
                owed[kind] -= sum(weights)
                kinds.append("TQA"[kind])
            order.shuffle(kinds)
            pooled = _Pooled("".join(kinds))
            for slot in range(len(kinds)):
                self._draw(pooled, slot)
            pool.append(pooled)
        return pool

    def _renew(self, pooled: _Pooled) -> None:
        first = (self._next + self._turn) % RENEW_EVERY
        for slot in range(first, len(pooled.kinds), RENEW_EVERY):
            self._draw(pooled, slot)

    def _draw(self, pooled: _Pooled, slot: int) -> None:
        """Draw the event of a slot anew. A symbol has at most one bar in a frame: its time is the frame's."""
        market = self.market
        symbol = market.draw()
        kind = pooled.kinds[slot]
        if kind == "T":
            pooled.texts[slot] = market.trade(symbol, slot)
        elif kind == "Q":
            pooled.texts[slot] = market.quote(symbol, slot)
        else:
            taken = pooled.taken
            if slot in pooled.bars:
                taken.discard(pooled.bars.pop(slot).symbol)
            for _ in range(8):
                if symbol not in taken:
                    break
                symbol = market.draw()
            while symbol in taken and len(taken) < self.options.symbols:
                symbol = (symbol + 1) % self.options.symbols
            taken.add(symbol)
            pooled.bars[slot] = market.bar(symbol, slot)


class _FillPart:
    """One list of symbols shown once, or the same frame of trades `times` over with new numbers."""

    def __init__(self, source: FrameSource, kind: str, symbols: range | list[int], times: int = 1) -> None:
        self._source, self._kind, self._symbols, self.times = source, kind, symbols, times

    def __call__(self, market_ms: int) -> list[Frame]:
        source, market, count = self._source, self._source.market, len(self._symbols)
        if self._kind == "A":
            texts = [market.count(market.bar(symbol, slot)) for slot, symbol in enumerate(self._symbols)]
            counts = (0, 0, count)
        elif self._kind == "T":
            texts = [market.trade(symbol, slot) for slot, symbol in enumerate(self._symbols)]
            counts = (count, 0, 0)
        else:
            texts = [market.quote(symbol, slot) for slot, symbol in enumerate(self._symbols)]
            counts = (0, count, 0)
        frames = []
        for at in range(self.times):
            frames.append(Frame(stamp(texts, market_ms + at, source.numbered), *counts))
            source.numbered += 1
        return frames
