"""Which symbols the simulated market has, and what is fixed about each: activity, price, float."""

from __future__ import annotations

import math
import random
from string import ascii_uppercase

import msgspec

MARKET_DAILY_SHARES = 10e9  # of all symbols together on an ordinary day
ZIPF_SHIFT = 10  # activity of rank r is 1/(r + shift): Zipf with a head as flat as the real market's

# symbol, name, tape (1 NYSE, 2 NYSE American and Arca, 3 Nasdaq), rough price in USD
_KNOWN = """
NVDA|NVIDIA Corp|3|178|TSLA|Tesla, Inc.|3|402|AAPL|Apple Inc.|3|258|AMD|Advanced Micro Devices|3|203
PLTR|Palantir Technologies|3|156|SPY|SPDR S&P 500 ETF Trust|2|678|QQQ|Invesco QQQ Trust|3|608
INTC|Intel Corp|3|46|F|Ford Motor Company|1|13.2|SOFI|SoFi Technologies|3|18.9|AMZN|Amazon.com, Inc.|3|214
BAC|Bank of America Corp|1|49|MARA|MARA Holdings|3|9.2|PFE|Pfizer Inc.|1|27|GOOGL|Alphabet Inc. Class A|3|303
MSFT|Microsoft Corp|3|409|META|Meta Platforms|3|648|T|AT&T Inc.|1|27.5|SNAP|Snap Inc.|1|5.2
NIO|NIO Inc.|1|5.1|RIVN|Rivian Automotive|3|15.4|HOOD|Robinhood Markets|3|78|SMCI|Super Micro Computer|3|32
AAL|American Airlines Group|3|11.4|CCL|Carnival Corp|1|26|UBER|Uber Technologies|1|74|AVGO|Broadcom Inc.|3|338
IWM|iShares Russell 2000 ETF|2|252|XLF|Financial Select Sector SPDR|2|51|GME|GameStop Corp.|1|23
AMC|AMC Entertainment|1|1.4|LCID|Lucid Group|3|10.4|WBD|Warner Bros. Discovery|3|28|CSCO|Cisco Systems|3|79
KO|Coca-Cola Company|1|77|DIS|Walt Disney Company|1|103|C|Citigroup Inc.|1|109|WMT|Walmart Inc.|3|124
XOM|Exxon Mobil Corp|1|151|JPM|JPMorgan Chase|1|291|GOOG|Alphabet Inc. Class C|3|304
MU|Micron Technology|3|392
COIN|Coinbase Global|3|198|BABA|Alibaba Group|1|134|ORCL|Oracle Corp|1|152|NFLX|Netflix, Inc.|3|97
VZ|Verizon Communications|1|50|NKE|NIKE, Inc.|1|58|RBLX|Roblox Corp|1|63|JNJ|Johnson & Johnson|1|241
GE|GE Aerospace|1|322|BA|Boeing Company|1|227|CVX|Chevron Corp|1|189|GM|General Motors|1|77
MRK|Merck & Co.|1|117|TQQQ|ProShares UltraPro QQQ|3|49|SQQQ|ProShares UltraPro Short QQQ|3|74
TLT|iShares 20+ Year Treasury|3|88|FCX|Freeport-McMoRan|1|61|GTE|Gran Tierra Energy|2|5.3|IBM|IBM Corp|1|250
BRK.B|Berkshire Hathaway Class B|1|497|BRK.A|Berkshire Hathaway Class A|1|745000
BF.B|Brown-Forman Class B|1|27
MKC.V|McCormick Voting|1|68|HEI.A|HEICO Class A|1|233|LEN.B|Lennar Class B|1|98|MOG.A|Moog Class A|1|322
"""

_FIRST = [
    "Apex",
    "Blue",
    "Cedar",
    "Delta",
    "Ever",
    "Fair",
    "Global",
    "Harbor",
    "Iron",
    "Juniper",
    "Key",
    "Lumen",
    "Mesa",
    "Nova",
    "Orion",
    "Pine",
    "Quest",
    "Ridge",
]
_SECOND = [
    "Bio",
    "Capital",
    "Data",
    "Energy",
    "Foods",
    "Gold",
    "Health",
    "Media",
    "Motors",
    "Networks",
    "Pharma",
    "Power",
    "Robotics",
    "Systems",
]


class Listing(msgspec.Struct, frozen=True):
    """One symbol, as it is before the day begins."""

    symbol: str
    name: str
    tape: int  # 1 NYSE, 2 NYSE American and Arca, 3 Nasdaq
    prev_close: float  # USD
    avg_volume: int  # shares a day
    day_volatility: float  # standard deviation of a day's return, 0.02 is 2 %
    free_float: int  # shares
    shares: int  # shares outstanding
    weight: float  # its part of the market's activity; all sum to 1


def build_universe(seed: int, count: int) -> list[Listing]:
    """`count` listings, the most active first; the same for the same seed and count."""
    rng = random.Random(f"universe/{seed}")
    names = _known()[:count]
    taken = {known[0] for known in names}
    while len(names) < count:
        symbol = _ticker(rng)
        if symbol not in taken:
            taken.add(symbol)
            company = f"{rng.choice(_FIRST)} {rng.choice(_SECOND)} {rng.choice(('Inc.', 'Corp.', 'Ltd.'))}"
            names.append((symbol, company, rng.choices((1, 2, 3), (30, 20, 50))[0], _price(rng, len(names))))
    total = sum(1 / (rank + ZIPF_SHIFT) for rank in range(1, count + 1))
    return [_listing(rng, rank, total, known) for rank, known in enumerate(names, start=1)]


def _known() -> list[tuple[str, str, int, float]]:
    cells = [cell for line in _KNOWN.split("\n") if line for cell in line.split("|")]
    return [(cells[i], cells[i + 1], int(cells[i + 2]), float(cells[i + 3])) for i in range(0, len(cells), 4)]


def _ticker(rng: random.Random) -> str:
    length = rng.choices((3, 4, 5), (25, 65, 10))[0]
    stem = "".join(rng.choices(ascii_uppercase, k=min(length, 4)))
    if length == 5:  # warrants, units and rights, or a second share class
        return stem + rng.choice("WUR") if rng.random() < 0.8 else f"{stem[:3]}.{rng.choice('AB')}"
    return stem


def _price(rng: random.Random, rank: int) -> float:
    """Cheaper the less active: the tail of the market is full of small companies."""
    median = 45.0 if rank < 1_000 else 22.0 if rank < 4_000 else 9.0
    price = min(max(median * math.exp(rng.gauss(0, 1.0)), 0.12), 4_000.0)
    return round(price, 2) if price >= 1 else round(price, 4)


def _listing(rng: random.Random, rank: int, total: float, known: tuple[str, str, int, float]) -> Listing:
    symbol, name, tape, price = known
    weight = 1 / (rank + ZIPF_SHIFT) / total
    avg_volume = max(1_000, int(MARKET_DAILY_SHARES * weight * math.exp(rng.gauss(0, 0.4))))
    if price > 10_000:
        avg_volume = max(100, avg_volume // 1_000)
    volatility = min(0.09, (0.014 + 0.012 * math.log10(rank)) * math.exp(rng.gauss(0, 0.3)))
    if price < 5:
        volatility = min(0.12, volatility * 1.6)
    # How often a day's volume turns the float over: small companies far more often.
    shares = (
        int(avg_volume * rng.uniform(20, 250)) if rank > 1_500 else int(avg_volume * rng.uniform(80, 600))
    )
    return Listing(
        symbol=symbol,
        name=name,
        tape=tape,
        prev_close=price,
        avg_volume=avg_volume,
        day_volatility=volatility,
        free_float=max(10_000, int(shares * rng.uniform(0.4, 0.98))),
        shares=max(20_000, shares),
        weight=weight,
    )
