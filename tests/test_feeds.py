"""The contract's table of feeds, and what patterns name."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdp import feeds

MIN, HOUR, DAY = 60, 3_600, 86_400
#: The contract (`docs/feeds.md`), row by row: feed -> (kind, seconds, items of a list).
TABLE: dict[str, tuple[str, float, int]] = {
    "stocks:agg:{S}": ("state", 5 * MIN, 0),
    "stocks:trades:{S}": ("event", 5, 0),
    "stocks:quotes:{S}": ("state", 5, 0),
    "stocks:luld:{S}": ("event", 24 * HOUR, 0),
    "unknown": ("event", 24 * HOUR, 1_000),
    "quote:{S}": ("state", 4 * DAY, 0),
    **{f"scanners:{n}": ("state", 4 * DAY, 0) for n in ("top_gainers", "top_gappers", "top_volume")},
    **{
        f"scanners:{n}": ("state", 4 * DAY, 0)
        for n in ("top_losers", "gap_down", "top_relative_volume", "most_trades")
    },
    "scanners:{name}": ("state", 4 * DAY, 0),
    "scanners:{name}:events": ("event", 8 * HOUR, 1_000),
    "tta:{S}:widget": ("state", MIN, 0),
    "tta:all_symbols:widget": ("state", MIN, 0),
    "trade_stats:{S}": ("state", 4 * DAY, 0),
    "daily_range:{S}": ("state", 4 * DAY, 0),
    "daily_range_hod_alert": ("event", 8 * HOUR, 1_000),
    "daily_range_lod_alert": ("event", 8 * HOUR, 1_000),
    "halts": ("event", 24 * HOUR, 1_000),
    "halt:{S}": ("state", 24 * HOUR, 0),
    "halts:active": ("state", 24 * HOUR, 0),
    "alerts": ("event", 24 * HOUR, 10_000),
    "news:feed:latest": ("event", 2 * DAY, 10_000),
    "news:ticker:{S}": ("event", 7 * DAY, 100),
    "market:status": ("state", MIN, 0),
}
ODD_SYMBOLS = ("AAPL", "BRK.A", "BRK-B", "BC/PX", "X:BTCUSD", "O:SPY251219C00650000", "I:NDX", "brk.a", "7")


def test_the_table_is_the_contracts() -> None:
    """Every row, and no other: name, kind, time to live, size of the list."""
    ours = {f.name: (f.kind, f.ttl_seconds, f.max_items) for f in feeds.FAMILIES}
    assert ours == TABLE
    assert len(feeds.FAMILIES) == len(TABLE)


@pytest.mark.parametrize("symbol", ODD_SYMBOLS)
def test_symbols_of_every_form_fill_every_hole(symbol: str) -> None:
    """Letters, digits, `.`, `-`, `/`, `:`; a feed's name leads back to family and symbol."""
    for family in feeds.FAMILIES:
        if family.hole == "symbol":
            feed = family.name.replace("{S}", symbol)
            assert family.feed(symbol) == feed
            assert feeds.resolve(feed) == (family, symbol), feed
            assert feeds.match(feed) == (feeds.Target(family, symbol),)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":",
        "quote:",
        "quote",
        ":AAPL",
        "quote:AA PL",
        "quote:AA*",
        "quote:ÄPFEL",
        "quote:A\n",
        "quote:A\x00",
        "QUOTE:AAPL",
        " quote:AAPL",
        "stocks:AAPL",
        "stocks::AAPL",
        "tta::widget",
        "tta:widget",
        "tta:AAPL",
        "scanners:",
        "scanners:a b",
        "scanners:x:events:y",
        "market:status:x",
        "market",
        "internal:ref:AAPL",
        "unknown:AAPL",
        "quote:" + "A" * 33,
        "mdp:journal",
        "٣",
    ],
)
def test_what_is_no_feed_names_nothing(name: str) -> None:
    """No such feed, no such symbol: neither read nor subscribed to."""
    assert feeds.resolve(name) is None
    assert feeds.match(name) == ()


def test_reserved_names_are_not_a_users_scanner() -> None:
    """`scanners:top_gainers` is the board, though `{name}` would fit; other names are a user's."""
    assert feeds.resolve("scanners:top_gainers") == (feeds.TOP_GAINERS, "")
    assert feeds.resolve("scanners:mine") == (feeds.SCANNER, "mine")
    assert feeds.resolve("scanners:mine:events") == (feeds.SCANNER_EVENTS, "mine")
    assert feeds.resolve("tta:all_symbols:widget") == (feeds.TTA_ALL, "")
    assert feeds.resolve("halts:active") == (feeds.HALTS_ACTIVE, "")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("quote:*", {"quote:{S}"}),
        ("stocks:*:AAPL", {f"stocks:{k}:{{S}}" for k in ("agg", "trades", "quotes", "luld")}),
        ("stocks:*:*", {f"stocks:{k}:{{S}}" for k in ("agg", "trades", "quotes", "luld")}),
        ("scanners:*:events", {"scanners:{name}:events"}),
        ("tta:*:widget", {"tta:{S}:widget", "tta:all_symbols:widget"}),
        ("*", {"unknown", "halts", "alerts", "daily_range_hod_alert", "daily_range_lod_alert"}),
        (
            "*:status",
            {n for n in TABLE if n == "market:status" or (n.endswith(":{S}") and n.count(":") == 1)}
            | {"scanners:{name}"},
        ),
        ("*:*:*:*", set()),
        ("quote:AA*", set()),
        ("quote:**", set()),
        ("quote:*:*", set()),
    ],
)
def test_a_star_is_a_whole_segment(pattern: str, names: set[str]) -> None:
    """The families a pattern touches; a star beside other characters is none."""
    assert {target.family.name for target in feeds.match(pattern)} == names


def test_a_star_in_the_holes_place_names_every_symbol() -> None:
    """None stands for all; symbols with colons are single ones."""
    assert feeds.match("stocks:agg:*") == (feeds.Target(feeds.AGG, None),)
    assert {t.symbol for t in feeds.match("stocks:*:X:BTCUSD")} == {"X:BTCUSD"}
    assert {t.symbol for t in feeds.match("tta:X:BTCUSD:widget")} == {"X:BTCUSD"}


def universe() -> list[str]:
    """Feeds of every family, with plain and odd symbols."""
    names = ["status", "active", "latest", "AAPL", "X:BTCUSD", "BRK.A", "widget"]
    made = []
    for name in TABLE:
        fillings = names if "{S}" in name else ["mine", "top_gainers"] if "{name}" in name else [""]
        made += [name.replace("{S}", f).replace("{name}", f) for f in fillings]
    return sorted(set(made))


def names_it(pattern: str, feed: str) -> bool:
    """The rule, tried out: segments one by one, where the symbol of a feed is one segment."""
    found = feeds.resolve(feed)
    assert found is not None
    family, filling = found
    given_ = pattern.split(":")
    parts = [filling if part.startswith("{") else part for part in family.name.split(":")]
    if len(given_) == len(parts) and all(g in ("*", p) for g, p in zip(given_, parts, strict=True)):
        return True
    spread = feed.split(":")  # the symbol spelled out, colons and all; stars in fixed places only
    hole = [p for p, t in zip(parts, family.name.split(":"), strict=True) if t.startswith("{")]
    fixed = [
        i for i in range(len(spread)) if not hole or i < family.name.split(":").index(_hole(family.name))
    ]
    if len(given_) != len(spread):
        return False
    tail = len(family.name.split(":")) - 1 - family.name.split(":").index(_hole(family.name)) if hole else 0
    fixed += list(range(len(spread) - tail, len(spread))) if tail else []
    return all(
        g == s or (g == "*" and i in fixed) for i, (g, s) in enumerate(zip(given_, spread, strict=True))
    )


def _hole(name: str) -> str:
    return next((part for part in name.split(":") if part.startswith("{")), "")


UNIVERSE = universe()
segment = st.sampled_from(sorted({s for feed in UNIVERSE for s in feed.split(":")} | {"*", "", "AA*"}))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(st.just("*"), segment), min_size=1, max_size=4).map(":".join))
def test_patterns_name_what_the_rule_says(pattern: str) -> None:
    """Against trying a pattern on every feed there could be."""
    targets = feeds.match(pattern)
    for feed in UNIVERSE:
        found = feeds.resolve(feed)
        assert found is not None
        named = any(t.family is found[0] and t.symbol in (None, found[1]) for t in targets)
        assert named == names_it(pattern, feed), (pattern, feed)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="quotestocks:*{S}/.- ", max_size=40))
def test_nonsense_names_nothing_or_a_legal_feed_and_never_raises(text: str) -> None:
    """Any text a client may send."""
    found = feeds.resolve(text)
    if found is not None:
        family, filling = found
        assert family.feed(filling) == text
        assert not family.hole or filling
    for target in feeds.match(text):
        assert target.symbol is None or target.symbol == "" or target.symbol in text
        assert (target.symbol == "") == (not target.family.hole)
    feeds.is_symbol(text)
