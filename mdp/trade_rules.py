"""What a print may change: the SIP's rules of sale conditions, as the provider numbers them.

A trade carries a list of conditions; each of them says whether such a print may set the high and low,
the last price (open and close), and whether its shares count. One "no" wins; a list that is empty, or
absent, forbids nothing (`GET /v3/reference/conditions`, `update_rules.consolidated`).

Two things that follow from it, and where they are decided here:

- Nearly every print outside 09:30 to 16:00 carries Form T (12) or "extended hours, sold out of sequence"
  (13), which forbid highs, lows and last prices: rightly so for the day's bar, but the pre-market would
  have no prices at all. So in the extended hours these two forbid nothing that is *session-scoped*; what
  is the day's follows the rules as they stand. The provider's extended-hours minute bars do the same.
- Odd lots (37) are about 70 % of the prints of dear stocks: their shares count, their price sets nothing.

A number that no list knows is eligible, and counted. The provider lists rules only where there is
something to forbid (0, a regular sale, is in no list, nor are most status indicators), so the unlisted
are far more often harmless than not; taking them out would silence every symbol with a new flag.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from mdp.events import Number

FORM_T = 12
EXTENDED_SOLD_OUT_OF_SEQUENCE = 13
ODD_LOT = 37
#: They forbid nothing session-scoped in the extended hours.
EXTENDED_HOURS = frozenset({FORM_T, EXTENDED_SOLD_OUT_OF_SEQUENCE})

#: `correction` of REST answers and flat files for prints that do not stand: corrected late, erroneous,
#: cancelled, cancel and correction records. The WebSocket has no such field; a replay of such files has.
DROPPED_CORRECTIONS: frozenset[Number] = frozenset({1, 7, 8, 10, 11})

#: What a print may do; `effect` answers a sum of these. Below `ODD`: what it may set or adds to.
VOLUME = 1  # its shares count
HIGH_LOW = 2  # may set its session's high and low
LAST = 4  # may set the last price
ODD = 8  # an odd lot
DAY_HIGH_LOW = 16  # in the extended hours: may set the day's high and low, too; else `HIGH_LOW` says it
UNKNOWN = 32  # a number that no list knows was among its conditions
EVERYTHING = VOLUME | HIGH_LOW | LAST

SHIPPED = "shipped"
PROVIDER = "provider"


class Rule(Struct, frozen=True):
    """What one condition allows, in the consolidated tape."""

    number: int
    name: str
    high_low: bool = True
    last: bool = True  # open and close
    volume: bool = True


class RuleTable(Struct, frozen=True):
    """The rules in force.

    Attributes:
        rules: By condition number.
        source: `shipped` with the program, or `provider`.
        dated: Of the shipped table the date it was taken, else when the provider gave it; ISO 8601, UTC.
    """

    rules: Mapping[Number, Rule]
    source: str
    dated: str

    def effect(self, conditions: Iterable[Number] | Number | None, *, extended: bool) -> int:
        """What a print with these conditions may do: a sum of this module's flags.

        Args:
            conditions: As on the wire: a list, one number, or nothing.
            extended: Whether it is a print of the pre-market, the after-hours or the closed market.
        """
        high_low = last = volume = day_high_low = True
        odd = unknown = False
        for number in _listed(conditions):
            rule = self.rules.get(number)  # 12.0 finds 12
            if rule is None:
                unknown = unknown or number != 0
                continue
            day_high_low = day_high_low and rule.high_low
            if not (extended and number in EXTENDED_HOURS):
                high_low = high_low and rule.high_low
                last = last and rule.last
            volume = volume and rule.volume
            odd = odd or number == ODD_LOT
        return (
            VOLUME * volume
            + HIGH_LOW * high_low
            + LAST * last
            + ODD * odd
            + DAY_HIGH_LOW * (extended and day_high_low)
            + UNKNOWN * unknown
        )

    def unknown(self, conditions: Iterable[Number] | Number | None) -> list[Number]:
        """Those of a print's conditions that no list knows."""
        return [n for n in _listed(conditions) if n != 0 and n not in self.rules]

    def explain(self, conditions: Iterable[Number] | Number | None, *, extended: bool) -> dict[str, Any]:
        """For people: what a print with these conditions may do, and which of them forbids the rest."""
        effect = self.effect(conditions, extended=extended)
        listed = list(_listed(conditions))
        rules = [self.rules[n] for n in listed if n in self.rules]
        scoped = [rule for rule in rules if not (extended and rule.number in EXTENDED_HOURS)]
        return {
            "updates_high_low": bool(effect & HIGH_LOW),
            "updates_last": bool(effect & LAST),
            "updates_volume": bool(effect & VOLUME),
            "updates_day_high_low": bool(effect & (DAY_HIGH_LOW if extended else HIGH_LOW)),
            "forbidden_by": {
                "high_low": [rule.number for rule in scoped if not rule.high_low],
                "last": [rule.number for rule in scoped if not rule.last],
                "volume": [rule.number for rule in rules if not rule.volume],
            },
            "names": {rule.number: rule.name for rule in rules},
            "unknown": self.unknown(listed),
            "source": self.source,
            "dated": self.dated,
        }


def _listed(conditions: Iterable[Number] | Number | None) -> Iterable[Number]:
    if conditions is None:
        return ()
    return (conditions,) if isinstance(conditions, (int, float)) else conditions


_NAMES = {
    1: "Acquisition", 2: "Average Price Trade", 3: "Automatic Execution", 4: "Bunched Trade",
    5: "Bunched Sold Trade", 6: "CAP Election", 7: "Cash Sale", 8: "Closing Prints", 9: "Cross Trade",
    10: "Derivatively Priced", 11: "Distribution", 12: "Form T/Extended Hours",
    13: "Extended Hours (Sold Out Of Sequence)", 14: "Intermarket Sweep",
    15: "Market Center Official Close", 16: "Market Center Official Open",
    17: "Market Center Opening Trade", 18: "Market Center Reopening Trade",
    19: "Market Center Closing Trade", 20: "Next Day", 21: "Price Variation Trade",
    22: "Prior Reference Price", 23: "Rule 155 Trade (AMEX)", 24: "Rule 127 (NYSE Only)",
    25: "Opening Prints", 27: "Stopped Stock (Regular Trade)", 28: "Re-Opening Prints", 29: "Seller",
    30: "Sold Last", 31: "Sold Last and Stopped Stock", 32: "Sold (Out Of Sequence)",
    33: "Sold (Out of Sequence) and Stopped Stock", 34: "Split Trade", 35: "Stock Option",
    36: "Yellow Flag Regular Trade", 37: "Odd Lot Trade", 38: "Corrected Consolidated Close",
    41: "Trade Thru Exempt", 52: "Contingent Trade", 53: "Qualified Contingent Trade",
    55: "Opening Reopening Trade Detail",
}  # fmt: skip
_NOTHING_BUT_VOLUME = frozenset({2, 7, 12, 13, 20, 21, 29, 37, 52, 53})
_NO_LAST = frozenset({5, 10, 22, 32, 33})
_NOTHING = frozenset({15, 16})
_NO_VOLUME = frozenset({15, 16, 38})

#: The provider's table of the day it is dated: what counts until the provider was asked, and where its
#: answer is of no use.
SHIPPED_TABLE = RuleTable(
    rules={
        number: Rule(
            number=number,
            name=name,
            high_low=number not in _NOTHING_BUT_VOLUME | _NOTHING,
            last=number not in _NOTHING_BUT_VOLUME | _NOTHING | _NO_LAST,
            volume=number not in _NO_VOLUME,
        )
        for number, name in _NAMES.items()
    },
    source=SHIPPED,
    dated="2026-09-27",
)


def completed(rules: Iterable[Rule], dated: str) -> RuleTable:
    """The provider's rules, with the shipped ones for numbers that its answer leaves out.

    A row that is missing, or that could not be read, is thus never taken for a permission.
    """
    given: dict[Number, Rule] = {}
    for rule in rules:
        other = given.get(rule.number, rule)  # listed twice, as two types: one "no" wins
        given[rule.number] = Rule(
            number=rule.number,
            name=rule.name,
            high_low=rule.high_low and other.high_low,
            last=rule.last and other.last,
            volume=rule.volume and other.volume,
        )
    return RuleTable(rules={**SHIPPED_TABLE.rules, **given}, source=PROVIDER, dated=dated)
