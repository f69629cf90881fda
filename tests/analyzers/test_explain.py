"""Explanations against the feeds: every number has one, and follows from the inputs that it names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp.analyzers.explain import Origin, explain, lost_at
from mdp.analyzers.explain_rules import (
    COMPUTED,
    HALT_RULES,
    QUOTE_RULES,
    RANGE_RULES,
    REFERENCE,
    TRADE_RULES,
    WIRE,
    Rule,
)
from mdp.analyzers.halt_state import HaltRow
from mdp.analyzers.halts import Halts
from mdp.analyzers.rows import QuoteRow
from mdp.analyzers.state import NoReference
from mdp.analyzers.volume_history import VolumeHistory
from mdp.cache.table import ALL_PENDING
from mdp.events import Aggregate
from mdp.processor.engine import Engine

from .halt_rig import luld
from .rig import Rig, at, bar, trade

TABLES: dict[str, dict[str, Rule]] = {
    "fields": QUOTE_RULES, "daily_range": RANGE_RULES, "trade_stats": TRADE_RULES, "halt": HALT_RULES
}  # fmt: skip
REFERENCES = NoReference(
    prev_day_open=9, prev_day_high=13, prev_day_low=8, prev_day_close=9.7, prev_day_volume=70_000,
    prev_day_vwap=9.9, avg_volume=64_000.25, avg_volume_days=30, free_float=1_234_567,
)  # fmt: skip


class ExplainRig(Rig):
    """All analyzers whose numbers are explained; symbol AAA."""

    def __init__(self) -> None:
        super().__init__()
        self.halts = Halts(self.market, self.results)
        analyzers = [self.raw, self.quote, self.boards, self.trades, self.stats, self.range, self.halts]
        self.engine = Engine(self.market, self.results, analyzers, max_failures=3)

    def explain(self, symbol: str = "AAA", **more: Any) -> dict[str, Any]:
        """The answer as a client sees it, held against the feeds and against `EVALUATE`."""
        answer = explain(self.market, symbol, halt=self.halts.known(symbol), **more)
        assert answer is not None
        answer = json.loads(msgspec.json.encode(answer))
        assert isinstance(answer, dict)
        self._is_what_feeds_show(symbol, answer)
        follows(answer)
        return answer

    def _is_what_feeds_show(self, symbol: str, answer: Mapping[str, Any]) -> None:
        quote = self.get(f"quote:{symbol}") or {}
        assert shown(answer, "fields") == quote
        ranges = self.get(f"daily_range:{symbol}")
        if ranges:
            assert shown(answer, "daily_range") == {name: ranges[name] for name in set(ranges) - set(quote)}
        assert shown(answer, "trade_stats") == (self.get(f"trade_stats:{symbol}") or {})
        assert shown(answer, "halt") == (self.get(f"halt:{symbol}") or {})


def shown(answer: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Field -> value of a section."""
    return {name: told["value"] for name, told in answer[section].items()}


# The evaluator: arithmetic on named inputs, and none of the program's code.


def over(top: Any, bottom: Any) -> float:
    """A quotient, 0 where the divisor is nothing."""
    return top / bottom if bottom else 0


def percent(of: str) -> Callable[[dict[str, Any]], float]:
    """`close` against another input in percent."""
    return lambda i: over((i["close"] - i[of]) * 100, i[of])


def best(choose: Callable[[list[Any]], Any], *names: str) -> Callable[[dict[str, Any]], Any]:
    """The highest or lowest of inputs that are there."""
    return lambda i: choose([i[name] for name in names if i[name] is not None] or [None])


def lasted(i: dict[str, Any]) -> Any:
    """How long a halt did."""
    if i["halt_timestamp"] is None:
        return None
    end = i["timestamp"] if i["status"] == "halted" else i["resume_timestamp"]
    return None if end is None else max(0, end - i["halt_timestamp"])


def opened(i: dict[str, Any]) -> Any:
    """The open that counts at the time."""
    if i["market_time"] < i["regular_session_start"]:
        return i["first_open"]
    return i["official_open_price"] or i["regular_open"]


def from_day_high(i: dict[str, Any]) -> float:
    """`close` against the highest of three."""
    names = ("pre_market_high", "regular_session_high", "after_hours_high")
    high = max([i[name] for name in names if i[name] is not None], default=0)
    return over((i["close"] - high) * 100, high)


def distance(band: str, sign: int) -> Callable[[dict[str, Any]], float | None]:
    """From the last price to a band in percent."""

    def work_out(i: dict[str, Any]) -> float | None:
        if not i[band] or not i["last_price"]:
            return None
        gap: float = sign * (i[band] - i["last_price"]) / i["last_price"] * 100
        return gap

    return work_out


EVALUATE: dict[str, dict[str, Callable[[dict[str, Any]], Any]]] = {
    "fields": {
        "relative_volume": lambda i: over(i["accumulated_volume"], i["avg_volume"]),
        "open": opened,
        "change": lambda i: i["close"] - i["prev_day_close"] if i["prev_day_close"] else 0,
        "pct_change": percent("prev_day_close"),
        "change_since_open": lambda i: i["close"] - i["open"] if i["open"] else 0,
        "pct_change_since_open": percent("open"),
        **{f"pct_change_{n}m": percent(f"price_{n}m_ago") for n in (1, 5, 15, 30)},
        "pct_from_vwap": percent("aggregate_vwap"),
        "pct_from_day_high": from_day_high,
        "relative_volume_at_time": lambda i: over(i["accumulated_volume"], i["usual_volume"]),
        "updated_ts": lambda i: i["end_timestamp"] or i["start_timestamp"],
        "stale": lambda i: i["start_timestamp"] <= i["lost_at"],
    },
    "daily_range": {},
    "trade_stats": {
        "avg_size": lambda i: round(over(i["total_volume"], i["trade_count"]), 2),
        "time_span_ms": lambda i: int(i["newest_timestamp"] - i["first_timestamp"]),
        "vwap": lambda i: over(i["dollar_volume"], i["total_volume"]),
        "high": best(max, "regular_session_high", "outside_hours_high"),
        "low": best(min, "regular_session_low", "outside_hours_low"),
    },
    "halt": {
        "halted_ms": lasted,
        "distance_to_high_pct": distance("high_band", 1),
        "distance_to_low_pct": distance("low_band", -1),
    },
}


def follows(answer: Mapping[str, Any]) -> None:
    """Every number of an answer follows from what the answer itself says about it."""
    for section, table in TABLES.items():
        for name, told in answer[section].items():
            rule, value = table[name], told["value"]
            assert told["rule"] == rule.text
            assert list(told["inputs"]) == list(rule.inputs)
            assert told["source"]
            if rule.kind == COMPUTED:
                inputs = {one: fact["value"] for one, fact in told["inputs"].items()}
                expected = EVALUATE[section][name](inputs)
                same = value is expected or math.isclose(value, expected, rel_tol=1e-12)
                assert same, f"{section}.{name}: {value} is not {expected} from {inputs}"
                times = [fact["as_of"] for fact in told["inputs"].values() if fact["as_of"]]
                assert told["as_of"] == max(times, default=None)
            elif rule.kind == WIRE and section == "fields":
                assert value == (answer["bar"][name] or 0)
            elif name == "accumulated_volume":
                assert value >= (told["inputs"]["bar_accumulated_volume"]["value"] or 0)


# The tables are whole.


def test_every_field_has_exactly_one_entry() -> None:
    """A field that is added, renamed or removed has to be explained anew."""
    assert list(QUOTE_RULES) == list(QuoteRow.__struct_fields__)
    assert list(HALT_RULES) == list(HaltRow.__struct_fields__)
    rig = ExplainRig()
    rig.tick(at(12))
    rig.send(bar("AAA", at(12), 10), trade("AAA", at(12), 100))
    assert list(TRADE_RULES) == list(rig.get("trade_stats:AAA"))
    assert set(RANGE_RULES) == set(rig.get("daily_range:AAA")) - set(QUOTE_RULES)


def test_every_computed_field_is_worked_out_by_the_test() -> None:
    """And no other: the evaluator and the tables name the same ones."""
    for section, table in TABLES.items():
        computed = {name for name, rule in table.items() if rule.kind == COMPUTED}
        assert set(EVALUATE[section]) == computed
        assert all(table[name].inputs for name in computed)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_rule_is_one_sentence(table: dict[str, Rule]) -> None:
    """Of some length, without end or line break, so that it fits a terminal and a tooltip."""
    for name, rule in table.items():
        assert 10 < len(rule.text) < 230, name
        assert "\n" not in rule.text
        assert not rule.text.endswith(".")


# States as they are on a trading day.


def test_the_pre_market() -> None:
    """The open is the first print; highs, previous day and average are there."""
    rig = ExplainRig()
    rig.market.refer({"AAA": REFERENCES})
    rig.tick(at(8))
    rig.send(bar("AAA", at(8), 10, av=500, v=500, a=10.1, vw=10, z=50))
    rig.send(bar("AAA", at(8, 0, 30), 12, high=12.5, av=900, v=400, a=10.9))
    answer = rig.explain()
    assert (answer["session"], answer["trading_day"]) == ("pre_market", "2024-03-05")
    fields = answer["fields"]
    assert fields["open"]["value"] == 10
    assert fields["open"]["inputs"]["first_open"]["as_of"] == at(8)
    assert fields["pct_change"]["value"] == pytest.approx((12 - 9.7) / 9.7 * 100, rel=1e-12)
    assert fields["pct_from_day_high"]["inputs"]["pre_market_high"]["value"] == 12.5
    assert fields["close"]["source"] == "wire A.c"
    assert fields["close"]["as_of"] == at(8, 0, 30)
    assert answer["bar"]["event_type"] == "A"
    assert answer["bar"]["close"] == 12


def test_the_regular_session_with_and_without_the_official_open() -> None:
    """Until it is sent the open is the first bar's; the source of it says since when it is known."""
    rig = ExplainRig()
    rig.tick(at(8))
    rig.send(bar("AAA", at(8), 10))
    rig.tick(at(9, 30))
    assert rig.explain()["fields"]["open"]["value"] == 0, "no bar from 09:30 on yet"
    rig.send(bar("AAA", at(9, 30), 11))
    assert rig.explain()["fields"]["open"]["value"] == 11
    rig.send(bar("AAA", at(9, 30, 1), 12, op=11.5))
    told = rig.explain()["fields"]["open"]
    assert told["value"] == 11.5
    assert told["inputs"]["official_open_price"]["as_of"] == at(9, 30, 1)


def test_the_days_high_may_be_of_an_earlier_session() -> None:
    """Of any of the three; the highs of all of them are the inputs, and each says up to when it counts."""
    rig = ExplainRig()
    for hour, high in ((8, 20), (12, 15), (17, 12)):
        rig.tick(at(hour))
        rig.send(bar("AAA", at(hour), 10, high=high))
        told = rig.explain()["fields"]["pct_from_day_high"]
        assert told["value"] == -50
    highs = {name: (fact["value"], fact["as_of"]) for name, fact in told["inputs"].items() if name != "close"}
    assert highs == {
        "pre_market_high": (20, at(9, 30)),
        "regular_session_high": (15, at(16)),
        "after_hours_high": (12, at(17)),
    }


def test_minutes_alone_are_named_as_what_they_are() -> None:
    """Of a plan without second bars; without `e` the bar's start is its time."""
    rig = ExplainRig()
    rig.tick(at(12))
    minute = bar("AAA", at(12), 10, ev="AM", v=70)
    del minute["e"]
    rig.send(minute)
    fields = rig.explain()["fields"]
    assert fields["close"]["source"] == "wire AM.c"
    assert fields["updated_ts"]["value"] == at(12)


def test_an_accumulated_volume_without_the_feeds_own_is_the_sum_of_its_parts() -> None:
    """What was before the newest bar, and that bar, late ones included."""
    rig = ExplainRig()
    rig.tick(at(12))
    rig.send(bar("AAA", at(12), 10, v=70))
    rig.send(bar("AAA", at(12, 0, 20), 10, v=5))
    rig.send(bar("AAA", at(12, 0, 10), 11, v=100))
    told = rig.explain()["fields"]["accumulated_volume"]
    assert told["value"] == 175
    assert told["inputs"]["volume_before"]["value"] + told["inputs"]["volume"]["value"] == 175
    assert told["source"] == "wire A.v"


def test_a_late_bar_tells_more_volume_than_the_newest() -> None:
    """The answer shows that the value is not the newest bar's."""
    rig = ExplainRig()
    rig.tick(at(12))
    rig.send(bar("AAA", at(12, 0, 20), 10, av=100))
    rig.send(bar("AAA", at(12, 0, 10), 11, av=130))
    fields = rig.explain()["fields"]
    assert fields["accumulated_volume"]["value"] == 130
    assert fields["accumulated_volume"]["inputs"]["bar_accumulated_volume"]["value"] == 100
    assert fields["pct_from_day_high"]["inputs"]["regular_session_high"]["value"] == 11


def test_prices_of_minutes_ago_say_up_to_when() -> None:
    """Each is the newest close of a quarter of a minute, never later than now."""
    rig = ExplainRig()
    rig.tick(at(12))
    rig.send(bar("AAA", at(12), 10))
    rig.tick(at(12, 5, 20))
    rig.send(bar("AAA", at(12, 5, 20), 15))
    told = rig.explain()["fields"]["pct_change_5m"]
    assert told["value"] == 50
    assert told["inputs"]["price_5m_ago"] == {
        "value": 10, "source": "kept: closes of quarters of a minute", "as_of": at(12, 0, 30)
    }  # fmt: skip


def test_reference_values_say_where_they_are_from() -> None:
    """Endpoint, time of the answer, the session they are of, the split that was applied."""
    rig = ExplainRig()
    rig.market.refer({"AAA": REFERENCES})
    rig.tick(at(12))
    rig.send(bar("AAA", at(12), 10))
    origin = Origin(
        "REST grouped daily bars of 2024-03-04, as traded", 1_700_000_000_000, at(16, day=(2024, 3, 4))
    )
    answer = rig.explain(origins={"prev_day_close": origin}, split_ratio=0.1)
    told = answer["fields"]["prev_day_close"]
    assert (told["source"], told["fetched_at"], told["as_of"]) == (
        origin.source, origin.fetched_at, origin.as_of
    )  # fmt: skip
    assert told["inputs"]["split_ratio"]["value"] == 0.1
    assert answer["fields"]["pct_change"]["inputs"]["prev_day_close"]["fetched_at"] == origin.fetched_at
    assert "fetched_at" not in answer["fields"]["prev_day_open"]
    assert "no reference values" in answer["fields"]["prev_day_open"]["source"]


def test_missing_reference_values_and_those_on_their_way() -> None:
    """Both are 0; which of the two it is, the source tells."""
    rig = ExplainRig()
    rig.tick(at(12))
    rig.send(bar("AAA", at(12), 10), bar("BBB", at(12), 10))
    rig.market.refer({"AAA": NoReference(pending=ALL_PENDING), "BBB": NoReference()})
    for symbol, waits in (("AAA", True), ("BBB", False)):
        fields = rig.explain(symbol)["fields"]
        assert fields["pct_change"]["value"] == 0
        for name in ALL_PENDING:
            assert QUOTE_RULES[name].kind == REFERENCE
            assert ("not answered yet" in fields[name]["source"]) is waits


def test_lost_data_makes_a_quote_stale_until_its_next_bar() -> None:
    """The time of the loss is the input."""
    rig = ExplainRig()
    rig.tick(at(12))
    rig.send(bar("AAA", at(12), 10))
    assert rig.explain()["fields"]["stale"]["value"] is False
    rig.tick(at(12, 0, 30))
    rig.market.lose()
    answer = rig.explain()
    assert answer["fields"]["stale"]["value"] is True
    assert (
        answer["fields"]["stale"]["inputs"]["lost_at"]["value"] == at(12, 0, 30) == lost_at(rig.market, "AAA")
    )
    assert answer["daily_range"]["uncertain_since"]["value"] == at(12, 0, 30)
    rig.send(bar("AAA", at(12, 0, 40), 10))
    assert rig.explain()["fields"]["stale"]["value"] is False


def test_usual_volume_is_the_input_of_relative_volume_at_a_time() -> None:
    """From the history, and 0 where there is none."""

    class Usual(VolumeHistory):
        """Knows every symbol."""

        def expected_at(self, symbol: str, ms_since_0400: float) -> tuple[float, int]:
            return ms_since_0400 / 7, 12

    rig = ExplainRig()
    rig.tick(at(12))
    rig.send(bar("AAA", at(12), 10, av=999))
    assert rig.explain()["fields"]["relative_volume_at_time"]["inputs"]["usual_volume"]["value"] == 0
    rig.market.volume_history = Usual()
    fields = rig.explain()["fields"]
    assert fields["relative_volume_at_time"]["inputs"]["usual_volume"]["value"] == 8 * 3_600_000 / 7
    assert fields["relative_volume_at_time_days"]["value"] == 12


def test_trades_by_their_conditions() -> None:
    """The rules in force are named; odd lots and Form T set what they may."""
    rig = ExplainRig()
    rig.tick(at(8))
    rig.send(trade("AAA", at(8), 100, 10, c=[12]), trade("AAA", at(8, 0, 1), 7, 99, c=[37]))
    rig.tick(at(12))
    rig.send(trade("AAA", at(12), 300, 11.5), trade("AAA", at(11, 59), 50, 11.25))
    answer = rig.explain()
    told = answer["trade_stats"]
    assert told["high"]["inputs"]["regular_session_high"]["value"] == 11.5
    assert told["pre_market_high"]["value"] == 10
    assert told["latest_price"]["as_of"] == at(12)
    assert answer["trade_rules"] == {"source": "shipped", "dated": rig.market.trades.rules.dated}
    assert answer["fields"] == {}, "trades alone make no quote"


def test_a_halt_and_its_end() -> None:
    """How long it lasts is counted from its beginning to now, and then to its end."""
    rig = ExplainRig()
    rig.tick(at(12))
    rig.send(bar("AAA", at(12), 10), luld("AAA", at(12), 17))
    rig.tick(at(12, 1))
    told = rig.explain()["halt"]
    assert told["halted_ms"]["value"] == 60_000
    assert told["distance_to_high_pct"]["value"] == 10
    assert told["halt_timestamp"]["source"] == "wire LULD.i 17 and 18"
    assert told["last_price"]["source"] == "wire A.c"
    for name in ("resume_timestamp", "pause_price"):
        assert (told[name]["value"], told[name]["as_of"]) == (None, None)
    assert told["pause_price"]["source"] == "the exchange's list"
    assert told["resume_timestamp"]["source"] == "nobody told of one"
    rig.tick(at(12, 2))
    rig.send(luld("AAA", at(12, 2), 18))
    rig.tick(at(12, 3))
    assert rig.explain()["halt"]["halted_ms"]["value"] == 120_000


def test_what_nobody_knows_is_none() -> None:
    """Nothing of the day, no reference values: no answer to make up."""
    rig = ExplainRig()
    assert explain(rig.market, "AAA") is None
    rig.market.refer({"BBB": REFERENCES})
    answer = rig.explain("BBB")
    assert (answer["fields"], answer["bar"], answer["trading_day"]) == ({}, None, None)
    rig.tick(at(12))
    assert explain(rig.market, "AAA") is None


def test_a_symbol_of_which_only_the_range_was_restored() -> None:
    """It has no bar, so no quote; its range is shown as gathered."""
    rig, other = ExplainRig(), ExplainRig()
    for one in (rig, other):
        one.tick(at(12))
    rig.send(bar("AAA", at(12), 10))
    other.range.hydrate(rig.range.dump())
    answer = explain(other.market, "AAA")
    assert answer is not None
    assert answer["fields"] == {}
    assert answer["daily_range"]["regular_session_high"]["value"] == 10


# Any day.

_PRICE = st.sampled_from([0.0001, 1, 9.7, 10, 10.5, 11, 12.25, 100_000.5])
_VOLUME = st.sampled_from([0, 1, 70, 100.5, 10**9])


@st.composite
def _bars(draw: st.DrawFn) -> list[dict[str, Any]]:
    seconds = draw(st.integers(-900, 20))
    more = {
        name: draw(strategy)
        for name, strategy in {"v": _VOLUME, "av": _VOLUME, "a": _PRICE, "vw": _PRICE, "op": _PRICE}.items()
        if draw(st.booleans())
    }
    low, close, high = sorted(draw(st.tuples(_PRICE, _PRICE, _PRICE)))
    return [{"kind": draw(st.sampled_from(["A", "A", "A", "AM"])), "at": seconds,
             "more": more | {"close": close, "high": high, "low": low}}]  # fmt: skip


_STEPS = st.one_of(
    _bars(),
    st.builds(
        lambda s, p, v, c: [{"kind": "T", "at": s, "price": p, "size": v, "c": c}],
        st.integers(-900, 20), _PRICE, _VOLUME, st.sampled_from([None, [12], [37], [15], [38], [7, 12]]),
    ),
    st.builds(lambda s, i: [{"kind": "LULD", "at": s, "i": i}],
              st.integers(-120, 5), st.sampled_from([15, 17, 18])),
    st.builds(lambda s: [{"kind": "tick", "at": s}], st.sampled_from([1, 20, 600, 5_400])),
    st.just([{"kind": "lose"}]),
    st.builds(lambda s: [{"kind": "refill", "at": s}], st.integers(-900, 0)),
    st.builds(lambda r: [{"kind": "refer", "row": r}],
              st.sampled_from([REFERENCES, NoReference(), NoReference(pending=ALL_PENDING)])),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([at(8), at(9, 28), at(12), at(15, 50), at(19, 58)]), st.lists(_STEPS, max_size=12))
def test_whatever_came_the_numbers_follow(begin: int, steps: list[list[dict[str, Any]]]) -> None:
    """Late and repeated bars, both classes of them, trades of all kinds, halts, losses, in any order."""
    rig = ExplainRig()
    now = begin
    rig.tick(now)
    rig.send(bar("AAA", now, 10))
    for (step,) in steps:
        when = now + step.get("at", 0) * 1_000
        kind = step["kind"]
        if kind in ("A", "AM"):
            rig.send(bar("AAA", when, ev=kind, **step["more"]))
        elif kind == "T":
            rig.send(trade("AAA", when, step["size"], step["price"], c=step["c"], i=str(when)))
        elif kind == "LULD":
            rig.send(luld("AAA", when, step["i"]))
        elif kind == "tick":
            now = when
            rig.tick(now)
        elif kind == "lose":
            rig.market.lose()
        elif kind == "refill":
            missed = [bar("AAA", when - ago * 1_000, 11, high=12, v=5) for ago in (60, 30, 0)]
            decoded = rig.decoder.decode(json.dumps(missed))
            rig.engine.refill([one for one in decoded if isinstance(one, Aggregate)])
        else:
            rig.market.refer({"AAA": step["row"]})
        rig.explain()
