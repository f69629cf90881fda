"""Paths of the provider's REST endpoints, and the short names that metrics call them by."""

from __future__ import annotations

STATUS = "/v1/marketstatus/now"
HOLIDAYS = "/v1/marketstatus/upcoming"
SNAPSHOT = "/v2/snapshot/locale/us/markets/stocks/tickers"
GROUPED = "/v2/aggs/grouped/locale/us/market/stocks/"  # + the date
BARS = "/v2/aggs/ticker/"  # + symbol/range/1/day/first/last
FLOAT = "/stocks/vX/float"
SPLITS = "/stocks/v1/splits"
SHORT_INTEREST = "/stocks/v1/short-interest"
SHORT_VOLUME = "/stocks/v1/short-volume"
CONDITIONS = "/v3/reference/conditions"
DETAILS = "/v3/reference/tickers/"  # + the symbol

_NAMES = {
    STATUS: "market_status",
    HOLIDAYS: "holidays",
    SNAPSHOT: "snapshot",
    GROUPED: "grouped",
    BARS: "bars",
    FLOAT: "float",
    SPLITS: "splits",
    SHORT_INTEREST: "short_interest",
    SHORT_VOLUME: "short_volume",
    CONDITIONS: "conditions",
    DETAILS: "details",
}


def endpoint_of(path: str) -> str:
    """The name of the endpoint that a path belongs to; `other` for one not named above."""
    for prefix, name in _NAMES.items():
        if path.startswith(prefix):
            return name
    return "other"
