"""Boards, quotes, ranges and alerts against a naive reading of the contract, on streams not made by hand."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdp.analyzers.state import NoReference

from .model import Model, day_start, session_of
from .rig import Rig, at, plain

# AAA both kinds, BBB seconds, CCC minutes, DDD does not sum up its volume, OTC over the counter.
SYMBOLS = ("AAA", "BBB", "CCC", "DDD", "OTC")
REFERENCE: dict[str, dict[str, Any]] = {
    "AAA": {"prev_day_close": 12.5, "avg_volume": 40_000, "free_float": 10_000_000, "avg_volume_days": 30},
    "BBB": {"prev_day_close": 15, "prev_day_open": 14, "prev_day_high": 16, "prev_day_low": 13.5},
    "DDD": {"prev_day_close": 9.75, "prev_day_volume": 123, "prev_day_vwap": 9.5, "avg_volume": 700},
}
BOARDS = ("top_volume", "top_gappers", "top_gainers")
#: The clock jumps to (or to just before, or just past) these on its way through a day and into the next.
STOPS = [
    *[at(h, m) for h, m in ((4, 0), (9, 30), (16, 0), (20, 0))],
    *[at(h, m, day=(2024, 3, 6)) for h, m in ((4, 0), (9, 30), (16, 0))],
]
price = st.integers(40, 52).map(lambda quarter: quarter / 4 if quarter % 4 else quarter // 4)


@st.composite
def aggregate(
    draw: st.DrawFn, now: int, sent: dict[str, list[int]], symbols: tuple[str, ...]
) -> dict[str, Any]:
    """A bar near the market's time: the next one, a late one, or one that was sent before."""
    symbol = draw(st.sampled_from(symbols))
    kinds = {"AAA": ("A", "AM"), "CCC": ("AM",)}.get(symbol, ("A",))
    ev = draw(st.sampled_from(kinds))
    start = now + draw(
        st.sampled_from((0, 0, 1_000, 1_000, 2_000, 60_000, -1_000, -2_000, -61_000, -600_000))
    )
    if sent.get(symbol) and draw(st.booleans()):
        start = draw(st.sampled_from((max(sent[symbol]), max(sent[symbol]), sent[symbol][-1])))
    if session_of(start) is None and not any(session_of(s) for s in sent.get(symbol, ())):
        start = now + 1_000 if session_of(now + 1_000) else day_of_session(now)
    if symbol == "AAA":  # which of a minute and a second of the same start is newer, nobody says
        start = start // 1_000 * 1_000 - 500 * (ev == "AM")
    low, high = sorted((draw(price), draw(price)))
    inside = st.sampled_from((low, high))
    event: dict[str, Any] = {
        "ev": ev,
        "sym": symbol,
        "o": draw(inside),
        "c": draw(inside),
        "h": high,
        "l": low,
    }
    event["s"] = start
    since = int(start - day_start(start).timestamp() * 1000) // 1000
    if symbol != "DDD":  # grows through the day, so that a late bar's is not above the newest one's
        event["av"] = since * 10 + (1 if ev == "AM" else draw(st.integers(2, 9)))
    if symbol == "OTC":
        event["otc"] = True
    if session_of(start) in ("regular", "after_hours") and since > 6 * 3600:
        event["op"] = 14.25
    for name, values in (("v", st.integers(1, 900)), ("vw", price), ("a", price), ("z", st.integers(1, 99))):
        if draw(st.booleans()):
            event[name] = draw(values)
    if draw(st.booleans()):
        event["e"] = start + (1_000 if ev == "A" else 60_000)
    sent.setdefault(symbol, []).append(start)
    return event


def day_of_session(now: int) -> int:
    """The last second of after-hours before a time in the night."""
    return int(day_start(now).timestamp() * 1000) + 16 * 3_600_000 - 1_000


@st.composite
def streams(draw: st.DrawFn) -> list[int | list[dict[str, Any]]]:
    """Times to which the clock jumps, and batches of bars."""
    largest = draw(st.sampled_from((1, 1, 6)))
    symbols = draw(st.sampled_from((*[(symbol,) for symbol in SYMBOLS], ("AAA", "BBB"), SYMBOLS)))
    sent: dict[str, list[int]] = {}
    now = draw(st.sampled_from((at(3), at(4), at(9, 29, 59), at(15, 59, 59), at(19, 50)))) + 500
    stream: list[int | list[dict[str, Any]]] = [now]
    for _ in range(draw(st.integers(1, 16))):
        ahead = [stop for stop in STOPS if stop > now + 2_000]
        if ahead and draw(st.integers(0, 2)) == 0:
            jump = ahead[0] + draw(st.sampled_from((0, -1, -1_000, -1_000, 1, 5_000, 4_000_000)))
            if day_start(jump) != day_start(now):
                sent = {}
            if jump > now:
                now = jump
                stream.append(now)
        batch = [
            draw(aggregate(now // 1000 * 1000, sent, symbols)) for _ in range(draw(st.integers(1, largest)))
        ]
        stream.append(batch)
        newest = max(b["s"] for b in batch)
        if day_start(newest) != day_start(now):
            sent = {b["sym"]: [b["s"]] for b in batch if day_start(b["s"]) == day_start(newest)}
        now = max(now, newest)
    return stream


def agree(given_: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    """Every field of the contract is there and right; floats to 12 digits."""
    for name, value in expected.items():
        got = given_[name]
        if isinstance(value, float) and isinstance(got, int | float) and not isinstance(got, bool):
            assert abs(got - value) <= 1e-9 * max(1.0, abs(value)), (what, name, got, value)
        else:
            assert got == value, (what, name, got, value)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(streams())
def test_every_stream_gives_what_the_contract_says(stream: list[int | list[dict[str, Any]]]) -> None:
    """After each batch: quotes published and read, three boards, ranges, and the alerts in order."""
    rig, model = Rig(), Model(REFERENCE)
    rig.market.refer({symbol: NoReference(**values) for symbol, values in REFERENCE.items()})
    for pattern in ("quote:*", "daily_range:*", "daily_range_hod_alert", "daily_range_lod_alert"):
        rig.subscribe(pattern)
    known: dict[str, Any] = {}  # to a subscriber: feed -> newest value
    for step in stream:
        if isinstance(step, int):
            rig.tick(step)
            model.tick(step)
            known.update(rig.taken())  # a reset of opens changes quotes without a bar
        else:
            model.alerts.clear()
            rig.send(*step)
            model.send(step)
            check_published(rig, model, step, known)
        for name in BOARDS:
            rows = rig.get(f"scanners:{name}")
            expected = model.board(name)
            assert [(row["rank"], row["symbol"]) for row in rows] == [
                (row["rank"], row["symbol"]) for row in expected
            ], name
            for row, right in zip(rows, expected, strict=True):
                agree(row, right, name)
        for symbol in SYMBOLS:
            if symbol in model.symbols:
                agree(rig.get(f"quote:{symbol}"), model.row(symbol), "quote")
                if any(
                    session_of(b["s"]) for b in (*model.symbols[symbol].settled, model.symbols[symbol].newest)
                ):
                    agree(rig.get(f"daily_range:{symbol}"), model.range(symbol), "range")
            else:
                assert rig.get(f"quote:{symbol}") is None
                assert rig.get(f"daily_range:{symbol}") is None


def check_published(rig: Rig, model: Model, batch: list[dict[str, Any]], known: dict[str, Any]) -> None:
    """What left the pipeline with this batch; of a state, subscribers know the newest value."""
    values: dict[str, Any] = {}
    alerts = []
    for feed, value in rig.taken():
        if feed.endswith("_alert"):
            alerts.append((feed, value))
        else:
            assert feed not in values, f"{feed} published twice for a batch"
            values[feed] = value
    for symbol in {b["sym"] for b in batch}:
        if symbol in model.symbols:
            known.update(values)
            agree(known[f"quote:{symbol}"], model.row(symbol), "published quote")
            if f"daily_range:{symbol}" in values:
                agree(values[f"daily_range:{symbol}"], model.range(symbol), "published range")
        else:
            assert f"quote:{symbol}" not in values
    assert len(alerts) == len(model.alerts), (alerts, model.alerts)
    for (feed, alert), expected in zip(alerts, model.alerts, strict=True):
        assert feed == (
            "daily_range_hod_alert" if expected["direction"] == "high" else "daily_range_lod_alert"
        )
        if len(batch) > 1:
            # The row is the bar's own; what several bars make together is known after the batch only.
            for name in (
                ("accumulated_volume", "relative_volume") if alert["symbol"] in ("AAA", "DDD") else ()
            ):
                expected.pop(name)
            for name in ("open", "change_since_open", "pct_change_since_open", "official_open_price"):
                expected.pop(name)
        agree(alert, expected, "alert")
    kept = [plain(record[2]) for record in rig.journal.records if record[0] == "e"]
    assert kept[len(kept) - len(alerts) :] == [alert for _, alert in alerts]
