"""Frames of the bench's market."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import msgspec
import pytest

from mdp.bench.bare import decode_bare, measure_bare
from mdp.bench.frames import Frame, FrameOptions, FrameSource, listings, ticker
from mdp.events import Aggregate, FrameDecoder, Quote, Trade

BASE_MS = 1_773_153_000_000


def make_source(pool_events: int = 2_000, **options: Any) -> FrameSource:
    return FrameSource(FrameOptions(**{"symbols": 300, **options}), pool_events=pool_events)


def take(source: FrameSource, count: int) -> list[Frame]:
    return [source.next(BASE_MS + number) for number in range(count)]


def decoded(frames: list[Frame]) -> list[list[dict[str, Any]]]:
    return [msgspec.json.decode(frame.data) for frame in frames]


def test_equal_options_send_equal_bytes() -> None:
    """Two sources of one seed send the same bytes, through several turns of the pool."""
    first, second = make_source(seed=7), make_source(seed=7)

    assert [frame.data for frame in take(first, 70)] == [frame.data for frame in take(second, 70)]


def test_another_seed_sends_another_market() -> None:
    """The seed decides prices and order."""
    assert take(make_source(seed=1), 1)[0].data != take(make_source(seed=2), 1)[0].data


@pytest.mark.parametrize("mix", ["all", "aggregates"])
@pytest.mark.parametrize("size", [1, 10, 100])
def test_every_frame_decodes_whole(mix: Any, size: int) -> None:
    """The platform's decoder and the bare one take each frame in one call and find what it counted."""
    source = make_source(mix=mix, events_per_frame=size)
    kinds = {Trade: "trades", Quote: "quotes", Aggregate: "aggregates"}
    decoder = FrameDecoder()

    for frame in take(source, 3 * 2_000 // size):
        found: dict[str, int] = defaultdict(int)
        for event in decoder.decode(frame.data):
            found[kinds[type(event)]] += 1
        assert (found["trades"], found["quotes"], found["aggregates"]) == (
            frame.trades,
            frame.quotes,
            frame.aggregates,
        )
        assert len(decode_bare(frame.data)) == frame.events == size


def test_the_mix_is_two_to_eight_to_one() -> None:
    """Over eleven frames of 100 the ratio is exact."""
    frames = take(make_source(), 11)

    assert sum(frame.trades for frame in frames) == 200
    assert sum(frame.quotes for frame in frames) == 800
    assert sum(frame.aggregates for frame in frames) == 100


def test_events_have_the_fields_of_the_wire() -> None:
    """Each type has exactly the keys that the provider always sends."""
    keys: dict[str, set[str]] = {}
    for frame in decoded(take(make_source(), 11)):
        for event in frame:
            keys.setdefault(event["ev"], set(event))
            assert set(event) == keys[event["ev"]]

    assert keys["T"] == {"ev", "sym", *"xizpsctq"}
    assert keys["Q"] == {"ev", "sym", "bx", "bp", "bs", "ax", "ap", "as", *"citqz"}
    assert keys["A"] == {"ev", "sym", "av", "op", "vw", *"vochlazse"}


def test_frames_are_as_long_as_on_the_wire() -> None:
    """A quote of the provider has about 125 bytes, a bar about 160."""
    assert 110 < len(take(make_source(), 1)[0].data) / 100 < 140
    assert 140 < len(take(make_source(mix="aggregates"), 1)[0].data) / 100 < 180


def test_times_are_those_asked_for() -> None:
    """Every event carries the frame's market time; a bar ends a second later."""
    for number, frame in enumerate(decoded(take(make_source(), 50))):
        for event in frame:
            if event["ev"] == "A":
                assert (event["s"], event["e"]) == (BASE_MS + number, BASE_MS + number + 1_000)
            else:
                assert event["t"] == BASE_MS + number


def test_accumulated_volume_grows_by_the_volume_of_each_bar() -> None:
    """Over turns of the pool, and from the fill on, no symbol's day volume ever shrinks or jumps."""
    source = make_source(mix="aggregates")
    frames = source.fill(BASE_MS) + [source.next(BASE_MS + 100 + number) for number in range(80)]
    last: dict[str, int] = {}
    for frame in decoded(frames):
        for bar in frame:
            if bar["sym"] in last:
                assert bar["av"] == last[bar["sym"]] + bar["v"]
            last[bar["sym"]] = bar["av"]

    assert len(last) == 300


def test_a_symbol_has_one_bar_in_a_frame() -> None:
    """Bars of one symbol have increasing starts, which a frame's single time could not give two of."""
    for frame in decoded(take(make_source(mix="aggregates", symbols=120), 80)):
        symbols = [bar["sym"] for bar in frame]
        assert len(symbols) == len(set(symbols))


def test_bars_are_bars() -> None:
    """High and low enclose open and close."""
    for frame in decoded(take(make_source(mix="aggregates"), 60)):
        for bar in frame:
            assert bar["l"] <= min(bar["o"], bar["c"]) <= max(bar["o"], bar["c"]) <= bar["h"]
            assert bar["l"] > 0


def test_no_event_is_sent_twice() -> None:
    """Trade ids are unique and sequence numbers rise from frame to frame, also when the pool starts over."""
    seen: set[tuple[str, str]] = set()
    numbers: list[int] = []
    for frame in decoded(take(make_source(), 70)):
        trades = [event for event in frame if event["ev"] == "T"]
        numbers.append(min(event["q"] for event in frame if "q" in event))
        for event in trades:
            assert (event["sym"], event["i"]) not in seen
            seen.add((event["sym"], event["i"]))

    assert numbers == sorted(set(numbers))


def test_new_highs_come_ever_more_rarely_but_go_on() -> None:
    """Prices are random walks that the cycling pool does not freeze: records decay and do not end."""
    source = make_source(mix="aggregates", symbols=100, pool_events=1_000)
    highs: dict[str, float] = {}
    records = []
    for _ in range(4):
        count = 0
        for frame in decoded(take(source, 1_000)):
            for bar in frame:
                if bar["h"] > highs.get(bar["sym"], 0):
                    highs[bar["sym"]] = bar["h"]
                    count += 1
        records.append(count)

    assert records[0] > records[3] > 0


def test_activity_follows_zipf() -> None:
    """The most active symbol of 300 has about the share that rank ** -0.9 gives it."""
    source = make_source(pool_events=40_000)
    first = source.market.listings[0].symbol
    events = [event for frame in decoded(take(source, 400)) for event in frame if event["ev"] != "A"]
    share = sum(event["sym"] == first for event in events) / len(events)
    expected = 1 / sum(rank**-0.9 for rank in range(1, 301))

    assert share == pytest.approx(expected, rel=0.1)


def test_the_fill_shows_every_symbol_once_by_type() -> None:
    """A bar, a trade and a quote each; with aggregates only, a bar."""
    events = [event for frame in decoded(make_source().fill(BASE_MS)) for event in frame]
    bars = [event for frame in decoded(make_source(mix="aggregates").fill(BASE_MS)) for event in frame]

    for kind in "TQA":
        assert sorted(event["sym"] for event in events if event["ev"] == kind) == sorted(
            listing.symbol for listing in listings(FrameOptions(symbols=300))
        )
    assert {bar["ev"] for bar in bars} == {"A"}


def test_full_windows_get_more_than_a_thousand_trades() -> None:
    """The first symbols get 1,100 further trades each, all with ids of their own."""
    trades: dict[str, set[str]] = defaultdict(set)
    for frame in decoded(make_source().fill(BASE_MS, full_windows=3)):
        for event in frame:
            if event["ev"] == "T":
                trades[event["sym"]].add(event["i"])

    assert sorted(len(ids) for ids in trades.values())[-4:] == [1, 1_101, 1_101, 1_101]


def test_tickers_are_distinct_words_of_letters() -> None:
    """20,000 ranks give 20,000 names of two to four capitals."""
    names = {ticker(rank) for rank in range(20_000)}

    assert len(names) == 20_000
    assert all(name.isalpha() and name.isupper() and 2 <= len(name) <= 4 for name in names)


def test_mean_bytes_tell_the_size_of_frames() -> None:
    """The estimate that the window in bytes is turned into events with is within a tenth."""
    source = make_source()
    frames = take(source, 20)

    assert source.mean_bytes == pytest.approx(sum(len(f.data) for f in frames) / 20, rel=0.1)


def test_bare_decoding_counts_every_event_it_decodes() -> None:
    """A slice decodes whole rounds of the sample and reports a positive rate."""
    frames = [frame.data for frame in take(make_source(), 5)]

    piece = measure_bare(frames, seconds=0.0)
    longer = measure_bare(frames, seconds=0.02)

    assert piece.events == 0
    assert longer.events > 0
    assert longer.events % 500 == 0
    assert longer.rate == pytest.approx(longer.events / longer.wall_seconds)
