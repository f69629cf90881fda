"""Trade conditions with their SIP update rules, as the reference endpoint lists them."""

from __future__ import annotations

from typing import Any

_NAMES = {
    1: "Acquisition", 2: "Average Price Trade", 3: "Automatic Execution", 4: "Bunched Trade",
    5: "Bunched Sold Trade", 6: "CAP Election", 7: "Cash Sale", 8: "Closing Prints", 9: "Cross Trade",
    10: "Derivatively Priced", 11: "Distribution", 12: "Form T/Extended Hours",
    13: "Extended Hours (Sold Out Of Sequence)", 14: "Intermarket Sweep",
    15: "Market Center Official Close",
    16: "Market Center Official Open", 17: "Market Center Opening Trade", 18: "Market Center Reopening Trade",
    19: "Market Center Closing Trade", 20: "Next Day", 21: "Price Variation Trade",
    22: "Prior Reference Price",
    23: "Rule 155 Trade (AMEX)", 24: "Rule 127 (NYSE Only)", 25: "Opening Prints",
    27: "Stopped Stock (Regular Trade)",
    28: "Re-Opening Prints", 29: "Seller", 30: "Sold Last", 31: "Sold Last and Stopped Stock",
    32: "Sold (Out Of Sequence)", 33: "Sold (Out of Sequence) and Stopped Stock", 34: "Split Trade",
    35: "Stock Option", 36: "Yellow Flag Regular Trade", 37: "Odd Lot Trade",
    38: "Corrected Consolidated Close", 41: "Trade Thru Exempt", 52: "Contingent Trade",
    53: "Qualified Contingent Trade",
    55: "Opening Reopening Trade Detail",
}  # fmt: skip

# Of the consolidated rules: who may not update high and low, open and close, volume. The rest may.
_NO_HIGH_LOW = frozenset({2, 7, 12, 13, 15, 16, 20, 21, 29, 37, 52, 53})
_NO_OPEN_CLOSE = _NO_HIGH_LOW | {5, 10, 22, 32, 33}
_NO_VOLUME = frozenset({15, 16, 38})


def condition_rows() -> list[dict[str, Any]]:
    """Every trade condition of stocks, as `/v3/reference/conditions` answers it."""
    rows = []
    for number, name in _NAMES.items():
        rules = {
            "updates_high_low": number not in _NO_HIGH_LOW,
            "updates_open_close": number not in _NO_OPEN_CLOSE,
            "updates_volume": number not in _NO_VOLUME,
        }
        rows.append(
            {
                "id": number,
                "type": "sale_condition",
                "name": name,
                "asset_class": "stocks",
                "data_types": ["trade"],
                "update_rules": {"consolidated": rules, "market_center": rules},
            }
        )
    return rows
