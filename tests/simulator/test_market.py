"""The simulated market: deterministic, believable, and consistent with itself."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import pytest

from mdp.simulator.conditions import condition_rows
from mdp.simulator.market import SyntheticMarket
from mdp.simulator.options import parse_start

Row = dict[str, Any]
OPEN_MS = parse_start("2026-03-10T09:30:00")


def make_market(start: str = "2026-03-10T09:25:00", **settings: Any) -> SyntheticMarket:
    options: dict[str, Any] = {"seed": 1, "symbols": 300, "rate": 1_500.0, **settings}
    return SyntheticMarket(start_ms=parse_start(start), **options)


def rows_of(market: SyntheticMarket, seconds: float) -> list[Row]:
    """Events of so much market time."""
    texts: list[str] = []
    for _ in range(round(seconds * 20)):
        texts += [text for _, _, text in market.advance()]
    rows: list[Row] = json.loads(f"[{','.join(texts)}]")
    return rows


def pass_time(market: SyntheticMarket, seconds: float) -> None:
    """So much market time, whatever happens in it."""
    for _ in range(round(seconds * 20)):
        market.advance()


def test_the_same_seed_gives_the_same_events_byte_for_byte() -> None:
    """Two markets with equal options never differ; another seed does."""
    one, two, other = make_market(), make_market(), make_market(seed=2)
    first = [one.advance() for _ in range(400)]
    assert first == [two.advance() for _ in range(400)]
    assert first != [other.advance() for _ in range(400)]


def test_topic_and_symbol_agree_with_the_text() -> None:
    """What filters go by is what the client reads."""
    market = make_market("2026-03-10T09:30:00")
    for _ in range(200):
        for topic, symbol, text in market.advance():
            row = json.loads(text)
            assert (row["ev"], row.get("sym") or row.get("T")) == (topic, symbol)


def test_trades_lie_within_the_quote_on_the_tick_grid() -> None:
    """A print is at the last bid, the last ask or between, at a whole tick."""
    quotes: dict[str, Row] = {}
    checked = 0
    for row in rows_of(make_market("2026-03-10T11:00:00"), 30):
        if row["ev"] == "Q":
            assert row["bp"] < row["ap"]
            quotes[row["sym"]] = row
        elif row["ev"] == "T" and row["sym"] in quotes:
            quote = quotes[row["sym"]]
            assert quote["bp"] <= row["p"] <= quote["ap"]
            grid = 100 if row["p"] >= 1.5 else 10_000
            assert row["p"] * grid == pytest.approx(round(row["p"] * grid), abs=1e-6)
            checked += 1
    assert checked > 1_000


def test_conditions_tell_session_odd_lots_and_venue() -> None:
    """Form T outside regular hours, odd lots below 100 shares, the TRF's id off exchange."""
    extended = [row for row in rows_of(make_market("2026-03-10T08:30:00"), 60) if row["ev"] == "T"]
    regular = [row for row in rows_of(make_market("2026-03-10T11:00:00"), 30) if row["ev"] == "T"]
    assert all(12 in row["c"] for row in extended)
    assert not any(12 in row.get("c", []) for row in regular)
    for row in extended + regular:
        assert (37 in row.get("c", [])) == (row["s"] < 100)
        assert (row.get("trfi") in (201, 202, 203)) == (row["x"] == 4)
    assert any(row["s"] < 100 for row in regular)
    assert any(row["x"] == 4 for row in regular)


def test_the_official_open_is_announced_and_counts_for_nothing() -> None:
    """Nasdaq names print condition 16 with the price that becomes `op` in their bars."""
    rows = rows_of(make_market("2026-03-10T09:30:00"), 20)
    official = {row["sym"]: row["p"] for row in rows if row["ev"] == "T" and row.get("c") == [16]}
    bars = [row for row in rows if row["ev"] == "A" and row["sym"] in official]
    assert len(bars) > 50
    assert all(row["op"] == official[row["sym"]] for row in bars)


def sip_bars(rows: list[Row], length_ms: int) -> dict[tuple[str, int], Row]:
    """Bars worked out from the trades by the published condition rules, independently of the market's own."""
    rules = {row["id"]: row["update_rules"]["consolidated"] for row in condition_rows()}
    bars: dict[tuple[str, int], Row] = {}
    for row in rows:
        if row["ev"] != "T":
            continue
        # Form T sets extended-hours bars unless another condition forbids it.
        codes = [code for code in row.get("c", []) if code != 12]
        if not all(rules[code]["updates_volume"] for code in codes):
            continue
        start = row["t"] // length_ms * length_ms
        bar = bars.setdefault((row["sym"], start), {"v": 0, "n": 0, "pv": 0.0, "prices": []})
        bar["v"] += row["s"]
        bar["n"] += 1
        bar["pv"] += row["s"] * row["p"]
        if all(rules[code]["updates_high_low"] for code in codes):
            bar["prices"].append(row["p"])
    return bars


@pytest.mark.parametrize(("start", "seconds"), [("2026-03-10T09:28:00", 195), ("2026-03-10T14:00:00", 65)])
def test_bars_are_exactly_those_of_the_trades(start: str, seconds: float) -> None:
    """Volume, VWAP and prices of each bar follow from the trades by the SIP rules; none is missing."""
    rows = rows_of(make_market(start), seconds)
    check_bars(rows, "A", 1_000)
    check_bars(rows, "AM", 60_000)


def check_bars(rows: list[Row], topic: str, length_ms: int) -> None:
    """The bars of one length against the trades beside them."""
    expected = sip_bars(rows, length_ms)
    bars = {(row["sym"], row["s"]): row for row in rows if row["ev"] == topic}
    last_end = max(row["e"] for row in bars.values())
    assert set(bars) == {key for key in expected if key[1] + length_ms <= last_end}
    for key, row in bars.items():
        want = expected[key]
        assert row["v"] == want["v"]
        assert row["z"] == want["v"] // want["n"]
        assert row["vw"] == pytest.approx(want["pv"] / want["v"], abs=6e-5)
        assert row["e"] - row["s"] == length_ms
        assert row["h"] >= max(row["o"], row["c"])
        assert row["l"] <= min(row["o"], row["c"])
        if want["prices"]:
            assert row["o"] == want["prices"][0]
            assert row["c"] == want["prices"][-1]
            assert row["h"] == max(want["prices"])
            assert row["l"] == min(want["prices"])


def test_accumulated_volume_runs_on_and_the_official_open_stays() -> None:
    """`av` is the running sum of `v`, pre-market included; `op` comes with 09:30 and never changes."""
    rows = [row for row in rows_of(make_market("2026-03-10T09:29:30"), 70) if row["ev"] == "A"]
    by_symbol: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_symbol[row["sym"]].append(row)
    crossed = 0
    for bars in by_symbol.values():
        for before, after in pairwise(bars):
            assert after["av"] == before["av"] + after["v"]
            assert after["s"] > before["s"]
        opens = {row["op"] for row in bars if "op" in row}
        # A minute after the open, odd lots may have traded before the opening print was possible.
        assert all("op" not in row for row in bars if row["s"] < OPEN_MS)
        assert all("op" in row for row in bars if row["s"] >= OPEN_MS)
        assert len(opens) <= 1
        crossed += bars[0]["s"] < OPEN_MS <= bars[-1]["s"]
    assert crossed > 50


def test_bars_are_published_about_two_seconds_after_their_end() -> None:
    """No bar comes before 2 s or after 2.5 s of market time."""
    market = make_market("2026-03-10T10:00:00")
    seen = 0
    for _ in range(20 * 90):
        now = market.now_ms
        for topic, _, text in market.advance():
            if topic in ("A", "AM"):
                assert 1_950 <= now - json.loads(text)["e"] <= 2_500
                seen += 1
    assert seen > 1_000


def test_timestamps_never_run_ahead_and_do_not_go_back_over_steps() -> None:
    """Trades and quotes carry times of their own step."""
    market = make_market("2026-03-10T10:00:00")
    for _ in range(200):
        now = market.now_ms
        for topic, _, text in market.advance():
            if topic in ("T", "Q"):
                assert now <= json.loads(text)["t"] < now + 50


def test_hundreds_of_bars_a_second_before_the_open() -> None:
    """The demo fills its boards at once: full market, default rate, five minutes before the bell."""
    market = make_market(symbols=11_000, rate=5_000.0)
    seconds = Counter(row["s"] for row in rows_of(market, 6) if row["ev"] == "A")
    assert len(seconds) >= 3
    assert min(seconds.values()) > 150


def test_the_pre_market_of_the_day_is_there_at_the_start() -> None:
    """Started in the middle of a session, symbols already have volume and a range."""
    market = make_market()
    assert sum(state.volume > 0 for state in market.states) > 250
    for state in market.states:
        if state.last:
            assert state.day_low <= state.last <= state.day_high
            assert not state.official_open
    assert any(state.official_open for state in make_market("2026-03-10T12:00:00").states)


def test_a_halt_stops_trading_for_five_minutes_and_is_announced() -> None:
    """17 with nanoseconds and `T`, then silence of that symbol, then 18, then trading."""
    market = make_market("2026-03-10T10:00:00", symbols=60)
    halt = market.story.halts[0]
    symbol = market.states[halt.index].symbol
    rows = rows_of(market, (halt.end_ms - market.now_ms) / 1_000 + 60)
    signals = [row for row in rows if row["ev"] == "LULD" and row["T"] == symbol and row["i"][0] in (17, 18)]
    assert [row["i"] for row in signals[:2]] == [[17], [18]]
    assert all("sym" not in row and row["t"] > 10**18 and row["z"] == 3 for row in signals)
    halted_ms, resumed_ms = (row["t"] // 1_000_000 for row in signals[:2])
    assert resumed_ms - halted_ms == 300_000
    traded = [row["t"] for row in rows if row["ev"] in ("T", "Q") and row["sym"] == symbol]
    assert not any(halted_ms + 50 <= at < resumed_ms for at in traded)
    assert any(at >= resumed_ms for at in traded)


def test_luld_bands_enclose_the_price() -> None:
    """Low band below, high band above the last price; they move as the price does."""
    rows = [row for row in rows_of(make_market("2026-03-10T09:30:00"), 30) if row["ev"] == "LULD"]
    assert len(rows) > 100
    assert all(0 < row["l"] < row["h"] for row in rows)


def test_a_runner_climbs_by_its_gain_with_volume() -> None:
    """At its height the price stands near the planned gain, on far more volume than before."""
    market = make_market("2026-03-10T10:00:00")
    runner = next(one for one in market.story.runners if one.start_ms > market.now_ms)
    state = market.states[runner.index]
    while market.now_ms < runner.start_ms:
        market.advance()
    before, volume = state.fair, state.volume
    pass_time(market, runner.climb_ms / 1_000)
    if any(halt.index == runner.index for halt in market.story.halts):
        pass_time(market, 400)
    assert state.fair / before > 1 + runner.gain * 0.35
    assert state.volume > volume


def test_some_symbols_gap_by_a_lot() -> None:
    """Gappers stand far from the previous close before the open, both ways."""
    market = make_market(symbols=2_000)
    moves = [state.fair / state.listing.prev_close - 1 for state in market.states]
    assert sum(move > 0.1 for move in moves) > 5
    assert any(move < -0.08 for move in moves)


def test_the_night_is_silent_and_the_next_day_starts_anew() -> None:
    """After 20:00 nothing comes; at 04:00 volume is zero and the close is the previous one."""
    market = make_market("2026-03-10T19:59:55")
    pass_time(market, 10)
    closes = {state.symbol: state.last / state.den for state in market.states if state.last}
    day_volume = sum(state.volume for state in market.states)
    market.now_ms = parse_start("2026-03-10T23:00:00")
    assert rows_of(market, 1) == []
    market.now_ms = parse_start("2026-03-11T03:59:59.900")
    rows_of(market, 0.2)
    assert market.shape.day.isoformat() == "2026-03-11"
    assert sum(state.volume for state in market.states) < day_volume / 10_000
    assert all(market.by_symbol[symbol].prev[3] == close for symbol, close in closes.items())


def test_the_rate_is_what_was_asked_for() -> None:
    """Over half an hour at a level of about one, events come at the rate, within a quarter."""
    market = make_market("2026-03-10T10:40:00", rate=400.0)
    level = market.shape.level(market.now_ms)
    count = sum(len(market.advance()) for _ in range(20 * 300))
    assert count / 300 == pytest.approx(400 * level, rel=0.25)
