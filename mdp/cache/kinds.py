"""What can be looked up one by one: each kind's source, its time to live, and how its answer is read.

| kind | of | value | kept |
| --- | --- | --- | --- |
| `snapshot` `avg_volume` `free_float` | a symbol, a trading day | see `mdp.cache.aside` | the trading day |
| `details` `short_interest` `short_volume` `splits` | a symbol | a struct; lists, newest first | 24 h |
| `holidays` `conditions` | the market | a list of structs; what is put | 24 h |
| `market_status` | the market | a struct | 60 s |

"Nothing" is an answer too and kept for 6 hours.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from mdp.cache import paths
from mdp.cache.validate import Checks

DAY_SECONDS = 86_400.0
STATUS_SECONDS = 60.0
NOTHING_SECONDS = 6 * 3_600.0
MAX_ROWS = 1_000  # of a list
MAX_TEXT = 2_000


class Details(msgspec.Struct, frozen=True):
    """Who is behind a symbol. Texts are empty and numbers 0 where unknown."""

    symbol: str
    name: str = ""
    market: str = ""
    primary_exchange: str = ""
    type: str = ""
    currency: str = ""
    list_date: str = ""
    description: str = ""
    homepage_url: str = ""
    sector: str = ""
    market_cap: float = 0  # USD
    shares_outstanding: float = 0
    employees: float = 0


class ShortInterest(msgspec.Struct, frozen=True):
    """Shares sold short as of a settlement date; two a month."""

    settlement_date: str
    short_interest: float
    avg_daily_volume: float
    days_to_cover: float


class ShortVolume(msgspec.Struct, frozen=True):
    """Shares sold short on one date, off exchanges."""

    date: str
    short_volume: float
    total_volume: float
    ratio: float  # percent of total_volume


class Split(msgspec.Struct, frozen=True):
    """`split_from` shares become `split_to`."""

    execution_date: str
    split_from: float
    split_to: float
    type: str = ""


class Holiday(msgspec.Struct, frozen=True):
    """A day on which an exchange is closed or closes early; times are ISO 8601, empty where closed."""

    date: str
    exchange: str
    name: str
    status: str
    open: str = ""
    close: str = ""


class MarketStatus(msgspec.Struct, frozen=True):
    """Whether stocks trade, and the provider's time (ms since the epoch)."""

    market: str
    early_hours: bool
    after_hours: bool
    server_time_ms: int


class Kind(msgspec.Struct, frozen=True):
    """How one kind is looked up.

    Attributes:
        name: As in `CacheAside.get`.
        endpoint: Name of its endpoint in metrics.
        path: Asked for; `{}` is the symbol. Empty: it is only ever put.
        query: Of the request; `{}` in a value is the symbol.
        read: Makes the value of a decoded answer; None is "nothing". Raises ValueError.
        ttl_seconds: For which a value is kept.
        market_wide: It has no symbol.
    """

    name: str
    endpoint: str
    path: str = ""
    query: dict[str, str] = {}
    read: Callable[[Any, str, Checks], Any] | None = None
    ttl_seconds: float = DAY_SECONDS
    market_wide: bool = False

    def request(self, symbol: str) -> tuple[str, dict[str, str]]:
        """Path and query for a symbol."""
        query = {name: value.replace("{}", symbol) for name, value in self.query.items()}
        return self.path.replace("{}", quote(symbol, safe="")), query


def _details(answer: Any, symbol: str, checks: Checks) -> Details | None:
    found = answer.get("results")
    if found is None:
        return None
    if not isinstance(found, dict) or found.get("ticker") != symbol:
        raise ValueError("not of this symbol")
    number = {
        name: (checks.shares(found[key]) or 0) if found.get(key) is not None else 0
        for name, key in (
            ("shares_outstanding", "share_class_shares_outstanding"),
            ("employees", "total_employees"),
            ("market_cap", "market_cap"),
        )
    }
    return Details(
        symbol=symbol,
        name=_text(found.get("name")),
        market=_text(found.get("market")),
        primary_exchange=_text(found.get("primary_exchange")),
        type=_text(found.get("type")),
        currency=_text(found.get("currency_name")),
        list_date=_text(found.get("list_date")),
        description=_text(found.get("description")),
        homepage_url=_text(found.get("homepage_url")),
        sector=_text(found.get("sic_description")),
        **number,
    )


def _short_interest(answer: Any, symbol: str, checks: Checks) -> list[ShortInterest] | None:
    found = []
    for row in _rows(answer, symbol):
        day, amount = checks.day(row.get("settlement_date")), checks.shares(row.get("short_interest"))
        if day is not None and amount is not None:
            average = checks.shares(row.get("avg_daily_volume")) or 0
            cover = checks.shares(row.get("days_to_cover")) or 0
            found.append(ShortInterest(day.isoformat(), amount, average, cover))
    return sorted(found, key=lambda one: one.settlement_date, reverse=True) or None


def _short_volume(answer: Any, symbol: str, checks: Checks) -> list[ShortVolume] | None:
    found = []
    for row in _rows(answer, symbol):
        day = checks.day(row.get("date"))
        short, total = checks.shares(row.get("short_volume")), checks.shares(row.get("total_volume"))
        if day is None or short is None or total is None:
            continue
        if short > total:
            checks.add("part above the whole")
            continue
        found.append(ShortVolume(day.isoformat(), short, total, short / total * 100 if total else 0))
    return sorted(found, key=lambda one: one.date, reverse=True) or None


def _splits(answer: Any, symbol: str, checks: Checks) -> list[Split] | None:
    found = []
    for row in _rows(answer, symbol):
        day = checks.day(row.get("execution_date"))
        old, new = checks.ratio(row.get("split_from")), checks.ratio(row.get("split_to"))
        if day is not None and old and new:
            found.append(Split(day.isoformat(), old, new, _text(row.get("adjustment_type"))))
    return sorted(found, key=lambda one: one.execution_date, reverse=True) or None


def _holidays(answer: Any, _symbol: str, checks: Checks) -> list[Holiday]:
    if not isinstance(answer, list):
        raise ValueError("not a list")
    found = []
    for row in answer[:MAX_ROWS]:
        if not isinstance(row, dict):
            checks.add("row")
        elif (day := checks.day(row.get("date"))) is not None:
            names = ("exchange", "name", "status", "open", "close")
            found.append(Holiday(day.isoformat(), *(_text(row.get(name)) for name in names)))
    return found


def _market_status(answer: Any, _symbol: str, _checks: Checks) -> MarketStatus:
    try:
        at = datetime.fromisoformat(answer["serverTime"])
        market = answer["market"]
    except (KeyError, TypeError):
        raise ValueError("no market status") from None
    if at.tzinfo is None or not isinstance(market, str):
        raise ValueError("no market status")
    hours = bool(answer.get("earlyHours")), bool(answer.get("afterHours"))
    return MarketStatus(market[:32], *hours, round(at.timestamp() * 1000))


def _rows(answer: Any, symbol: str) -> list[dict[str, Any]]:
    """The rows of a symbol; a server that does not know the filter gives everybody's."""
    found = answer.get("results") or []
    if not isinstance(found, list):
        raise ValueError("no list")
    return [row for row in found[:MAX_ROWS] if isinstance(row, dict) and row.get("ticker") == symbol]


def _text(value: Any) -> str:
    """A text for people: one that is too long is cut, what cannot be shown is left out."""
    if not isinstance(value, str):
        return ""
    return "".join(one if one.isprintable() else " " for one in value[:MAX_TEXT]).strip()


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("details", "details", paths.DETAILS + "{}", {}, _details),
        Kind(
            "short_interest",
            "short_interest",
            paths.SHORT_INTEREST,
            {"ticker": "{}", "sort": "settlement_date.desc", "limit": "24"},
            _short_interest,
        ),
        Kind(
            "short_volume",
            "short_volume",
            paths.SHORT_VOLUME,
            {"ticker": "{}", "sort": "date.desc", "limit": "30"},
            _short_volume,
        ),
        Kind(
            "splits",
            "splits",
            paths.SPLITS,
            {"ticker": "{}", "sort": "execution_date.desc", "limit": "100"},
            _splits,
        ),
        Kind("holidays", "holidays", paths.HOLIDAYS, {}, _holidays, market_wide=True),
        Kind("conditions", "conditions", market_wide=True),
        Kind(
            "market_status",
            "market_status",
            paths.STATUS,
            {},
            _market_status,
            STATUS_SECONDS,
            market_wide=True,
        ),
        Kind("bars", "bars"),  # of one symbol: its previous day and average volume
        Kind("free_float", "float"),
    )
}
