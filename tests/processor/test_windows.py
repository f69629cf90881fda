"""Windows of trades in a partition's hash: whatever happens, the last write brings back what was there."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdp.analyzers.trade_ledger import TradeLedger
from mdp.analyzers.trade_state import RECORD_BYTES, WINDOW
from mdp.analyzers.window_log import WindowPart, pack, unpack
from mdp.processor import engine_state, windows
from mdp.processor.windows import GROUPS, WindowKeeper, Write, group_of
from tests.analyzers.rig import Rig, at, trade

NOON = at(12)
SYMBOLS = [f"W{number}" for number in range(12)]


class Partition:
    """An engine, its keeper, and its hash in Redis, as the script of a checkpoint changes it."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.rig.tick(NOON)
        self.hash: dict[bytes, bytes] = {}
        self.checkpoint: list[Any] = []
        self.keeper = WindowKeeper(self.rig.engine)
        self.number = 0

    @property
    def ledger(self) -> TradeLedger:
        return TradeLedger.of(self.rig.market)

    def trade(self, symbol: str, count: int = 1) -> None:
        wire = []
        for _ in range(count):
            self.number += 1
            wire.append(
                trade(symbol, NOON + self.number % 900, 1 + self.number % 700, 10.25, i=f"i{self.number}")
            )
        self.rig.send(*wire)

    def write(self, *, taken: bool = True, known: bool = True) -> Write:
        """One checkpoint; not `taken`: it never reached Redis. Not `known`: nobody knows whether it did."""
        plan = self.keeper.plan()
        fields = plan.pack()
        if taken:
            if plan.anew:
                self.hash.clear()
            for gone in plan.gone:
                self.hash.pop(gone.encode(), None)
            for name, value in zip(fields[::2], fields[1::2], strict=True):
                assert isinstance(name, str)
                assert isinstance(value, bytes)
                self.hash[name.encode()] = value
            self.checkpoint = list(engine_state.dump(self.rig.engine))
            if known:
                self.keeper.written(plan)
        return plan

    def successor(self) -> Partition:
        """Another process with what Redis has."""
        other = Partition()
        engine_state.hydrate(other.rig.engine, self.rig.market.clock.now_ms, self.checkpoint)
        other.number = self.number
        other.hash, other.checkpoint = dict(self.hash), self.checkpoint
        other.keeper.restore(other.hash)
        return other

    def windows(self) -> dict[str, bytes]:
        return {
            symbol: known.newest_records(known.held).tobytes()
            for symbol, known in self.ledger.symbols.items()
            if known.held
        }


@pytest.mark.parametrize("count", [1, 15, 16, 17, 64, 256, 999, 1_000, 1_001, 2_345])
def test_a_window_of_any_length_comes_back_and_goes_on(count: int) -> None:
    """The same statistics as without a hand-over, at once and after further trades."""
    one = Partition()
    one.trade("AAA", count)
    one.write()

    two = one.successor()

    assert two.windows() == one.windows()
    assert len(two.windows()["AAA"]) == RECORD_BYTES * min(count, WINDOW)
    for further in (1, 700, 1_000):
        one.trade("AAA", further)
        two.trade("AAA", further)
        mine, its = one.ledger.symbols["AAA"], two.ledger.symbols["AAA"]
        assert its.window() == mine.window()
        assert its.trade_count == mine.trade_count
        assert two.windows() == one.windows()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("trade"), st.sampled_from(SYMBOLS), st.sampled_from([1, 2, 30, 400, 1_100])),
        st.tuples(st.just("write"), st.sampled_from(["known", "unknown", "lost"])),
        st.tuples(st.just("clear"), st.sampled_from(SYMBOLS)),
        st.tuples(st.just("successor")),
        st.tuples(st.just("day")),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_whatever_happened_the_last_write_is_what_a_successor_finds(
    steps: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writes that were lost or not confirmed, windows that were cleared, new days, several successors."""
    monkeypatch.setattr(windows, "_LEAST_RECORDS", 200)
    monkeypatch.setattr(windows, "_WHOLE_RECORDS", 300)
    monkeypatch.setattr(windows, "_MOST_SEGMENTS", 5)
    one = Partition()
    for step in steps:
        match step:
            case ("trade", symbol, count):
                one.trade(symbol, count)
            case ("write", outcome):
                one.write(taken=outcome != "lost", known=outcome == "known")
            case ("clear", symbol):
                if symbol in one.ledger.symbols:
                    one.ledger.symbols[symbol].clear_window()
            case ("successor",):
                one.write()
                one = one.successor()
            case ("day",):
                one.ledger.start_day()
    one.write()

    assert one.successor().windows() == one.windows()


def test_what_is_written_follows_the_trades_that_come() -> None:
    """A full window is not written again for one more trade."""
    one = Partition()
    one.trade("AAA", 3_000)
    first = one.write()
    one.trade("AAA", 7)

    second = one.write()

    assert (len(first.segment), first.anew) == (WINDOW, True)
    assert (len(second.segment), second.anew, second.groups) == (7, False, {})


def test_old_segments_go_once_windows_are_written_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash stays within a multiple of the windows, however many trades came."""
    monkeypatch.setattr(windows, "_LEAST_RECORDS", 1_000)
    monkeypatch.setattr(windows, "_WHOLE_RECORDS", 1_000)
    one = Partition()
    most = 0
    for round_ in range(60):
        for symbol in SYMBOLS:
            one.trade(symbol, 100)
        one.write()
        if round_ > 20:
            records = sum(len(unpack(_packed(value))) for value in one.hash.values())
            most = max(most, records)
    assert 12 * WINDOW < most < 4 * 12 * WINDOW
    assert len(one.hash) < 60
    assert one.successor().windows() == one.windows()


def test_many_small_segments_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet market writes a trade a second, all day."""
    monkeypatch.setattr(windows, "_MOST_SEGMENTS", 20)
    monkeypatch.setattr(windows, "_WHOLE_RECORDS", 1)
    one = Partition()
    for number in range(300):
        one.trade(SYMBOLS[number % 12])
        one.write()
    assert sum(name.startswith(b"s") for name in one.hash) < 50
    assert one.successor().windows() == one.windows()


def test_one_write_is_bounded_and_the_rest_comes_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """After Redis was emptied everything is to be written: not at once. What is missing is not made up."""
    monkeypatch.setattr(windows, "_MOST_RECORDS", 2_500)
    one = Partition()
    for symbol in SYMBOLS:
        one.trade(symbol, 1_000)

    sizes = [len(one.write().segment)]
    found = one.successor().windows()
    assert found
    assert all(one.windows()[symbol] == window for symbol, window in found.items())
    while len(one.successor().windows()) < len(SYMBOLS):
        sizes.append(len(one.write().segment))

    assert max(sizes) == 3_000
    assert one.successor().windows() == one.windows()


@pytest.mark.parametrize("harm", ["cut", "noise", "other day", "behind"])
def test_what_does_not_fit_the_checkpoint_begins_anew(harm: str) -> None:
    """Nothing is guessed: such a window is empty, and the next write makes the hash whole again."""
    one = Partition()
    one.trade("AAA", 50)
    one.trade("BBB", 50)
    one.write()
    before = dict(one.hash)
    match harm:
        case "cut":
            one.hash = {name: value[:-9] for name, value in one.hash.items()}
        case "noise":
            one.hash = {b"s1": b"\xc1", b"gx": b"1", b"other": b""}
        case "other day":
            one.keeper._day = lambda: "2026-03-09"  # type: ignore[method-assign]
            one.keeper._anew = True
            one.write()
        case "behind":
            one.trade("AAA", 1)
            one.write()
            one.hash = before

    two = one.successor()

    assert two.windows() == ({"BBB": one.windows()["BBB"]} if harm == "behind" else {})
    two.trade("AAA", 3)
    two.trade("BBB", 3)
    two.write()
    assert two.successor().windows() == two.windows()


def test_an_engine_of_the_same_process_hands_over_windows_and_repeats() -> None:
    """Where Redis lost everything, what is in memory goes on."""
    one, two = Partition(), Partition()
    one.trade("AAA", 1_200)
    engine_state.hydrate(two.rig.engine, NOON, list(engine_state.dump(one.rig.engine)))

    two.keeper.adopt(one.rig.engine)

    assert two.windows() == one.windows()
    two.rig.send(trade("AAA", NOON, 5, 10.25, i="i1200"))
    assert two.ledger.symbols["AAA"].duplicates == 1


def test_parts_are_the_same_after_packing() -> None:
    """Every bit of every record, also of codes that are no numbers as doubles."""
    rng = random.Random(3)
    part = WindowPart.empty()
    for symbol in ("A", "BRK.A", "X:BTC-USD"):
        part.symbols.append(symbol)
        part.counts.append(rng.randrange(10_000))
        part.held.append(4)
        part.lengths.append(4)
        part.records.frombytes(rng.randbytes(4 * 32))
    found = unpack(pack(part))
    assert found.records.tobytes() == part.records.tobytes()
    assert (found.symbols, found.counts, found.held) == (part.symbols, part.counts, part.held)
    assert len(unpack(pack(WindowPart.empty()))) == 0


def test_groups_are_even() -> None:
    """Of the symbols of one partition, too."""
    sizes = [0] * GROUPS
    for number in range(6_400):
        sizes[group_of(f"S{number}")] += 1
    assert max(sizes) < 160
    assert min(sizes) > 40


def _packed(value: bytes) -> bytes:
    packed: bytes = msgspec.msgpack.decode(value)[2]
    return packed
