"""What every number of a symbol's feeds means, from what it follows, and how: one table a feed.

The tables name the fields of `QuoteRow`, of a daily range, of `trade_stats:{S}` and of `HaltRow`, each once;
a test holds them against those and works every computed number out again from its inputs. A formula that
is changed has its sentence here, and its inputs.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Kind = Literal["wire", "reference", "computed", "kept", "clock"]

WIRE: Literal["wire"] = "wire"  # as it came in an event
REFERENCE: Literal["reference"] = "reference"  # of the provider's REST API, for a trading day
COMPUTED: Literal["computed"] = "computed"  # follows from the inputs, and from nothing else
KEPT: Literal["kept"] = "kept"  # gathered from events that are gone; the inputs are what is left of them
CLOCK: Literal["clock"] = "clock"  # the market's


class Rule(Struct, frozen=True):
    """How a field comes about.

    Attributes:
        text: One sentence for a trader.
        kind: See the module.
        inputs: Names of fields or of what `explain` knows beside them.
    """

    text: str
    kind: Kind
    inputs: tuple[str, ...] = ()


def _wire(text: str) -> Rule:
    return Rule(text, WIRE)


def _computed(text: str, *inputs: str) -> Rule:
    return Rule(text, COMPUTED, inputs)


def _kept(text: str, *inputs: str) -> Rule:
    return Rule(text, KEPT, inputs)


def _previous(what: str, how: str) -> Rule:
    text = f"{what} of the previous session's daily bar, {how} the shares that splits since then made of one"
    return Rule(text, REFERENCE, ("split_ratio",))


def _ago(minutes: int) -> Rule:
    return _computed(
        f"(close - price {minutes} min ago) / that price, in percent; the price is the close of the newest "
        "bar that starts in the quarter of a minute of then, or earlier; 0 where there was none",
        "close",
        f"price_{minutes}m_ago",
    )


RANGE = (
    "pre_market_high", "pre_market_low", "regular_session_high", "regular_session_low", "after_hours_high",
    "after_hours_low",
)  # fmt: skip
HIGHS = RANGE[::2]

QUOTE_RULES: dict[str, Rule] = {
    "symbol": _wire("the symbol as the provider writes it"),
    "volume": _wire("shares of the newest bar; 0 where the wire has none"),
    "free_float": Rule(
        "shares that are free to trade, brought to the trading day by splits since their date", REFERENCE
    ),
    "accumulated_volume": _kept(
        "the largest accumulated volume that a bar of the trading day carried; without one, the sum of the "
        "bars' volumes; it never goes back before 04:00",
        "bar_accumulated_volume",
        "volume_before",
        "volume",
    ),
    "relative_volume": _computed(
        "accumulated_volume / avg_volume; 0 without an average", "accumulated_volume", "avg_volume"
    ),
    "official_open_price": _kept("the primary exchange's opening price, once a bar from 09:30 on carried it"),
    "vwap": _wire("volume-weighted average price of the newest bar"),
    "open": _computed(
        "before 09:30 the open of the trading day's first bar; from then on the official open, until it is "
        "sent the open of the first bar from 09:30 on",
        "market_time",
        "regular_session_start",
        "first_open",
        "regular_open",
        "official_open_price",
    ),
    "close": _wire("last price of the newest bar; a bar older than the newest changes nothing here"),
    "high": _wire("highest price of the newest bar"),
    "low": _wire("lowest price of the newest bar"),
    "aggregate_vwap": _wire("the day's volume-weighted average price, as the newest bar carries it"),
    "average_size": _wire("average shares a trade of the newest bar"),
    "avg_volume": Rule(
        "mean volume of the last avg_volume_days completed sessions, today excluded, each brought to the "
        "trading day's shares by splits",
        REFERENCE,
        ("avg_volume_days",),
    ),
    "prev_day_close": _previous("close", "divided by"),
    "prev_day_open": _previous("open", "divided by"),
    "prev_day_high": _previous("high", "divided by"),
    "prev_day_low": _previous("low", "divided by"),
    "prev_day_volume": _previous("volume", "times"),
    "prev_day_vwap": _previous("volume-weighted average price", "divided by"),
    "change": _computed("close - prev_day_close; 0 without a previous close", "close", "prev_day_close"),
    "pct_change": _computed(
        "(close - prev_day_close) / prev_day_close, in percent; 0 without a previous close",
        "close",
        "prev_day_close",
    ),
    "change_since_open": _computed("close - open; 0 without an open", "close", "open"),
    "pct_change_since_open": _computed(
        "(close - open) / open, in percent; 0 without an open", "close", "open"
    ),
    "start_timestamp": _wire("when the newest bar starts, ms"),
    "end_timestamp": _wire("when the newest bar ends, ms; 0 where the wire has none"),
    "avg_volume_days": Rule("how many sessions avg_volume is the mean of; 30 at most", REFERENCE),
    "pct_change_1m": _ago(1),
    "pct_change_5m": _ago(5),
    "pct_change_15m": _ago(15),
    "pct_change_30m": _ago(30),
    "pct_from_vwap": _computed(
        "(close - aggregate_vwap) / aggregate_vwap, in percent; 0 without one", "close", "aggregate_vwap"
    ),
    "pct_from_day_high": _computed(
        "(close - day high) / day high, in percent; the day high is the highest of its sessions' highs",
        "close",
        *HIGHS,
    ),
    "relative_volume_at_time": _computed(
        "accumulated_volume / mean volume of recorded days up to the same time of day; 0 without a history",
        "accumulated_volume",
        "usual_volume",
    ),
    "relative_volume_at_time_days": _kept("how many recorded days relative_volume_at_time rests on"),
    "trade_count": _kept(
        "trades of the day whose shares count by the conditions they carry, repeats left out"
    ),
    "updated_ts": _computed(
        "end_timestamp of the newest bar, its start_timestamp where the wire has no end",
        "end_timestamp",
        "start_timestamp",
    ),
    "stale": _computed(
        "whether data of this symbol may have been lost at or after the start of its newest bar",
        "start_timestamp",
        "lost_at",
    ),
    "pending": Rule("names of fields that are 0 only because their answer has not come yet", REFERENCE),
}


def _extreme(which: str, session: str) -> Rule:
    return _kept(
        f"{which} price of the {session}'s bars, late ones included; null before its first; only the newest "
        "bar, when it is sent again with other prices, takes back what it set"
    )


RANGE_RULES: dict[str, Rule] = {
    f"{session}_{side}": _extreme(which, words)
    for session, words in (
        ("pre_market", "pre-market"), ("regular_session", "regular session"), ("after_hours", "after-hours"),
    )
    for side, which in (("high", "highest"), ("low", "lowest"))
}  # fmt: skip
RANGE_RULES["uncertain_since"] = _kept(
    "market time since which bars of the symbol may be missing, so that highs, lows and volumes may be "
    "wrong; null where none is, or all were fetched afterwards"
)


def _trades(what: str) -> Rule:
    return _kept(f"{what}, over the day's trades whose shares count, repeats left out")


def _session_prices(which: str, session: str) -> Rule:
    return _kept(
        f"{which} price of the {session}'s trades whose conditions let them set it; null before the first"
    )


TRADE_RULES: dict[str, Rule] = {
    "symbol": _wire("the symbol as the provider writes it"),
    "total_volume": _trades("sum of sizes, shares"),
    "trade_count": _trades("how many"),
    "avg_size": _computed(
        "total_volume / trade_count, to two digits; 0 without a trade", "total_volume", "trade_count"
    ),
    "max_size": _trades("largest size, shares"),
    "time_span_ms": _computed(
        "newest_timestamp - first_timestamp, ms", "newest_timestamp", "first_timestamp"
    ),
    "latest_price": _kept(
        "price of the newest trade by its own time whose conditions let it set the last price"
    ),
    "latest_timestamp": _kept("time of that trade, ms"),
    "latest_exchange": _kept("exchange of that trade, by the provider's number"),
    "first_timestamp": _trades("oldest time, ms"),
    "newest_timestamp": _trades("newest time, ms"),
    "vwap": _computed("dollar_volume / total_volume; 0 without a trade", "dollar_volume", "total_volume"),
    "dollar_volume": _trades("sum of price times size, USD"),
    "odd_lot_volume": _trades("sum of sizes of odd lots, shares"),
    "odd_lot_count": _trades("how many odd lots"),
    "duplicates": _kept("trades of the day that came again and were left out"),
    "high": _computed(
        "the higher of regular_session_high and of the highest trade outside of regular hours that may set "
        "the day's; null without either",
        "regular_session_high",
        "outside_hours_high",
    ),
    "low": _computed(
        "the lower of regular_session_low and of the lowest trade outside of regular hours that may set the "
        "day's; null without either",
        "regular_session_low",
        "outside_hours_low",
    ),
    "pre_market_high": _session_prices("highest", "pre-market"),
    "pre_market_low": _session_prices("lowest", "pre-market"),
    "regular_session_high": _session_prices("highest", "regular session"),
    "regular_session_low": _session_prices("lowest", "regular session"),
    "after_hours_high": _session_prices("highest", "after-hours"),
    "after_hours_low": _session_prices("lowest", "after-hours"),
}

_HALT = "of the last halt"

HALT_RULES: dict[str, Rule] = {
    "symbol": _wire("the symbol as the provider writes it"),
    "status": _kept(
        "halted from a halt to its resumption; limit_state while the best bid is at the upper band or the "
        "best offer at the lower one; else trading"
    ),
    "reason": _kept(f"the reason {_HALT} in words; the tape gives none", "reason_code"),
    "reason_code": _kept(f"the exchange's code {_HALT}"),
    "source": _kept(f"who told {_HALT} first: luld (the tape) or the exchange's list"),
    "halt_timestamp": _kept(f"beginning {_HALT}, ms"),
    "resume_timestamp": _kept(f"end {_HALT}, ms; null while it lasts"),
    "resume_source": _kept("who told of the end; trades where bars proved it"),
    "resume_expected_timestamp": _kept("when the exchange's list says that trading resumes, ms"),
    "quote_resume_expected_timestamp": _kept("when the exchange's list says that quoting resumes, ms"),
    "halted_ms": _computed(
        "how long the last halt lasted: to its resumption, or to timestamp while it does, ms",
        "status",
        "halt_timestamp",
        "resume_timestamp",
        "timestamp",
    ),
    "halts_today": _kept("halts that began since 04:00; both sources' word of one counts once"),
    "high_band": _kept("upper price band of the newest limit up / limit down message of the day"),
    "low_band": _kept("lower price band of the newest limit up / limit down message of the day"),
    "band_timestamp": _kept("time of that message, ms"),
    "distance_to_high_pct": _computed(
        "(high_band - last_price) / last_price, in percent; null without one", "high_band", "last_price"
    ),
    "distance_to_low_pct": _computed(
        "(last_price - low_band) / last_price, in percent; null without one", "low_band", "last_price"
    ),
    "last_price": _wire("close of the newest bar; null where there is none today"),
    "limit_side": _kept("the band that the best quote, or without one the last price, is at; null at none"),
    "limit_basis": _kept("what tells of the limit state: quote or trade"),
    "limit_timestamp": _kept("beginning of the limit state, ms"),
    "pause_price": _kept("the price that set off the pause, by the exchange's list"),
    "listing_market": _kept("where the symbol is listed, by the exchange's list"),
    "timestamp": Rule("the market clock: the newest accepted event time, ms", CLOCK),
}
