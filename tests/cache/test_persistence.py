"""Snapshot and journal on disk: what was written comes back, what is torn or foreign never does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdp.cache import persistence
from mdp.cache.persistence import Restored, Store

HEAD = {"day": "2026-03-10", "now_ms": 1_773_149_400_000, "saved_ms": 1}


def store_at(folder: Path, *, feed: str = "127.0.0.1:4300", market: str = "stocks") -> Store:
    return Store(str(folder / "mdp"), feed, market)


def save(store: Store, *records: Any) -> bool:
    return asyncio.run(store.save(dict(HEAD), iter(records)))


def reopened(folder: Path, **identity: str) -> Restored | None:
    """What another process finds."""
    return store_at(folder, **identity).load()


def the(folder: Path, ending: str) -> Path:
    (found,) = [path for path in folder.iterdir() if ending in path.name]
    return found


def test_nothing_is_found_where_nothing_was_kept(tmp_path: Path) -> None:
    """The first start of all, also in a folder that does not exist."""
    assert reopened(tmp_path) is None
    assert reopened(tmp_path / "absent") is None


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.lists(
        st.lists(st.integers() | st.floats(allow_nan=False) | st.text() | st.none()), max_size=6
    ),
    journaled=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3), max_size=6),
)
def test_what_was_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any], journaled: list[Any]
) -> None:
    """Head, records and what was journaled since, in order."""
    folder = tmp_path_factory.mktemp("kept")
    records = [[n for n in r if not isinstance(n, int) or -(2**63) <= n < 2**63] for r in records]
    store = store_at(folder)
    store.open()
    store.write([["before"]])
    assert save(store, *records)
    for record in journaled:
        store.write([record])
    store.close()

    restored = reopened(folder)

    if not records and not journaled:
        assert restored is None or (restored.records, restored.journal) == ([], [])
        return
    assert restored is not None
    assert {name: restored.head[name] for name in HEAD} == HEAD
    assert restored.records == records
    assert restored.journal == journaled, "what the snapshot includes is not replayed"


def test_a_journal_is_enough(tmp_path: Path) -> None:
    """A kill before the first snapshot loses nothing that was announced."""
    store = store_at(tmp_path)
    store.open()
    store.write([["d", "2026-03-10", 5], ["s", "daily_range", [1]]])

    restored = reopened(tmp_path)  # without close, as after a kill

    assert restored is not None
    assert restored.records == []
    assert restored.journal == [["d", "2026-03-10", 5], ["s", "daily_range", [1]]]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_torn_journal_gives_the_records_before_the_tear(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A kill may fall into a write: wherever the file ends, whole records come back and no half one."""
    folder = tmp_path_factory.mktemp("torn")
    store = store_at(folder)
    store.open()
    records = [["s", "daily_range", ["AAPL", n, 1.5]] for n in range(4)]
    for record in records:
        store.write([record])
    store.close()
    journal = the(folder, "journal")
    whole = journal.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    garbage = data.draw(st.sampled_from([b"", b"\x00" * 40, b"\xff" * 40]))
    journal.write_bytes(whole[:cut] + garbage)

    restored = reopened(folder)

    got = [] if restored is None else restored.journal
    assert got == records[: len(got)]
    if cut == len(whole):
        assert got == records


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_torn_snapshot_is_ignored_as_a_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Half a market is worse than none: without its last byte a snapshot does not count."""
    folder = tmp_path_factory.mktemp("torn")
    save(store_at(folder), *[["a", "probe", n] for n in range(5)])
    snapshot = the(folder, "snapshot")
    whole = snapshot.read_bytes()
    snapshot.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])

    restored = reopened(folder)

    assert restored is None or restored.records == []


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_never_stop_the_start(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever a disk did to the files: loading gives something or nothing, and does not raise."""
    folder = tmp_path_factory.mktemp("damaged")
    store = store_at(folder)
    save(store, ["a", "probe", "text"], ["a", "probe", {"x": 1.5}])
    store.write([["s", "probe", "more"]])
    store.close()
    for ending in ("snapshot", "journal"):
        path = the(folder, ending)
        body = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(body)

    restored = reopened(folder)

    if restored is not None:  # nothing that comes back is wrong
        assert restored.records in ([], [["a", "probe", "text"], ["a", "probe", {"x": 1.5}]])
        assert restored.journal in ([], [["s", "probe", "more"]])


@pytest.mark.parametrize(
    "other", [{"feed": "socket.massive.com"}, {"market": "options"}, {"feed": "127.0.0.1:4301"}]
)
def test_values_of_another_feed_or_market_never_come_back(tmp_path: Path, other: dict[str, str]) -> None:
    """A simulated market's values never reach real boards."""
    store = store_at(tmp_path)
    save(store, ["a", "probe", 1])
    store.write([["e", "halts", {}]])
    store.close()

    assert reopened(tmp_path, **other) is None
    assert reopened(tmp_path) is not None


def test_a_renamed_file_of_another_feed_is_refused(tmp_path: Path) -> None:
    """The identity is inside the files, too, not in their names alone."""
    foreign = store_at(tmp_path, feed="127.0.0.1:4300")
    save(foreign, ["a", "probe", 1])
    foreign.write([["e", "halts", {}]])
    foreign.close()
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(path.name.replace("127.0.0.1_4300", "socket.massive.com")))

    assert reopened(tmp_path, feed="socket.massive.com") is None


def test_each_snapshot_starts_a_generation_and_removes_the_old_ones(tmp_path: Path) -> None:
    """Bounded: one snapshot and one journal remain, however long it runs."""
    store = store_at(tmp_path)
    store.open()
    for number in range(5):
        store.write([["s", "probe", number]])
        assert save(store, ["a", "probe", number])
    store.close()

    assert sorted(path.name.rpartition(".")[2].rstrip("0123456789") for path in tmp_path.iterdir()) == [
        "journal-",
        "lock",
        "snapshot",
    ]
    restored = reopened(tmp_path)
    assert restored is not None
    assert (restored.records, restored.journal) == ([["a", "probe", 4]], [])
    assert store.snapshots == 5


def test_a_restart_appends_to_no_old_journal(tmp_path: Path) -> None:
    """A torn tail stays the end of its own file: what is written after a restart is readable."""
    first = store_at(tmp_path)
    first.open()
    first.write([["s", "probe", 1]])
    first.close()
    journal = the(tmp_path, "journal")
    journal.write_bytes(journal.read_bytes() + b"\x00\x00")
    second = store_at(tmp_path)
    second.load()
    second.open()
    second.write([["s", "probe", 2]])
    second.close()

    restored = reopened(tmp_path)
    assert restored is not None
    assert restored.journal == [["s", "probe", 1], ["s", "probe", 2]]


def test_a_kill_between_writing_and_replacing_keeps_the_old_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replacement is atomic: until it happens, the old snapshot and every journal since count."""
    store = store_at(tmp_path)
    save(store, ["a", "probe", "old"])
    store.write([["s", "probe", "since"]])

    def killed(_self: Path, _target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            save(store, ["a", "probe", "new"])
    store.write([["s", "probe", "after"]])

    restored = reopened(tmp_path)
    assert restored is not None
    assert restored.records == [["a", "probe", "old"]]
    assert restored.journal == [["s", "probe", "since"], ["s", "probe", "after"]]


async def test_what_happens_while_a_snapshot_is_written_is_in_the_journal(tmp_path: Path) -> None:
    """Records made step by step are of different moments; the journal has what came in between."""
    store = store_at(tmp_path)

    def records() -> Iterator[Any]:
        yield ["a", "probe", 1]
        store.write([["s", "probe", "meanwhile"]])
        yield ["a", "probe", 2]

    assert await store.save(dict(HEAD), records())

    restored = reopened(tmp_path)
    assert restored is not None
    assert restored.journal == [["s", "probe", "meanwhile"]]


async def test_a_snapshot_gives_the_loop_back_between_records(tmp_path: Path) -> None:
    """Ten thousand symbols are written without holding up the reading."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await store_at(tmp_path).save(dict(HEAD), iter([["a", "probe", n] for n in range(100)]))
    task.cancel()

    assert turns >= 100


async def test_a_cancelled_save_does_not_spoil_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM in the middle of the periodic snapshot: its thread still writes while the last one is made."""
    store = store_at(tmp_path)
    fsync, release = os.fsync, asyncio.Event()
    loop = asyncio.get_running_loop()
    in_thread = asyncio.Event()

    def slow(fd: int) -> None:
        loop.call_soon_threadsafe(in_thread.set)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(10)
        fsync(fd)

    monkeypatch.setattr(os, "fsync", slow)
    first = asyncio.create_task(store.save(dict(HEAD), iter([["a", "probe", "first"] for _ in range(2_000)])))  # noqa: RUF006
    await in_thread.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    monkeypatch.setattr(os, "fsync", fsync)
    second = asyncio.create_task(store.save(dict(HEAD), iter([["a", "probe", "last"]])))
    await asyncio.sleep(0.05)
    release.set()

    assert await second
    restored = reopened(tmp_path)
    assert restored is not None
    assert restored.records == [["a", "probe", "last"]]


def test_a_folder_that_cannot_be_written_costs_the_snapshot_only(tmp_path: Path) -> None:
    """Errors of the disk are counted and never raised; the platform goes on."""
    obstacle = tmp_path / "file"
    obstacle.write_text("in the way")
    store = store_at(obstacle)

    assert store.load() is None
    store.open()
    store.write([["s", "probe", 1]])
    assert not save(store, ["a", "probe", 1])
    store.close()

    assert store.errors >= 2
    assert store.snapshots == 0


@contextlib.contextmanager
def _limit(size: int) -> Iterator[None]:
    """No file of this process may grow beyond that: what a full disk looks like.

    It ends within the test: what pytest prints may go to a file, too.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Room that `_limit` takes away; the log, which is a file here, would have none either."""
    monkeypatch.setattr(persistence, "log", logging.getLogger("silent"))
    monkeypatch.setattr(logging.Logger, "error", lambda *_args, **_fields: None)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGXFSZ, before)


@pytest.mark.usefixtures("disk")
def test_a_full_disk_loses_what_did_not_fit_and_nothing_else(tmp_path: Path) -> None:
    """A record that fits only half must not spoil those written once there is room again."""
    store = store_at(tmp_path)
    store.open()
    store.write([["s", "probe", "before"]])
    with _limit(the(tmp_path, "journal").stat().st_size + 20):
        store.write([["s", "probe", "x" * 500]])
    assert store.errors == 1
    store.write([["s", "probe", "after"]])
    store.close()

    restored = reopened(tmp_path)
    assert restored is not None
    assert restored.journal == [["s", "probe", "before"], ["s", "probe", "after"]]


@pytest.mark.usefixtures("disk")
def test_a_snapshot_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    """And its journal with everything since."""
    store = store_at(tmp_path)
    save(store, ["a", "probe", "old"])
    store.write([["s", "probe", "since"]])
    with _limit(2_000):
        saved = save(store, ["a", "probe", "x" * 5_000])
        store.write([["s", "probe", "after"]])
    assert not saved
    store.close()

    restored = reopened(tmp_path)
    assert restored is not None
    assert restored.records == [["a", "probe", "old"]]
    assert restored.journal == [["s", "probe", "since"], ["s", "probe", "after"]]
    assert store.errors == 1


@pytest.mark.usefixtures("disk")
def test_a_journal_that_cannot_be_begun_leaves_the_one_before_in_use(tmp_path: Path) -> None:
    """No snapshot may then declare the journal that goes on to be old."""
    store = store_at(tmp_path)
    save(store, ["a", "probe", "old"])
    with _limit(10):
        saved = save(store, ["a", "probe", "new"])
    assert not saved
    store.write([["s", "probe", "since"]])
    store.close()

    restored = reopened(tmp_path)
    assert restored is not None
    assert restored.records == [["a", "probe", "old"]]
    assert restored.journal == [["s", "probe", "since"]]


_WRITER = """
import sys
from mdp.cache.persistence import Store
store = Store(sys.argv[1], "127.0.0.1:4300", "stocks")
store.open()
for number in range(1_000_000):
    store.write([["s", "probe", number]])
    print(number, flush=True)
"""


def test_what_was_written_before_a_kill_is_there_after_it(tmp_path: Path) -> None:
    """`kill -9` loses no record whose write returned: they are the kernel's by then."""
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(tmp_path / "mdp")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    announced = [process.stdout.readline() for _ in range(50)]
    process.kill()
    announced += process.stdout.readlines()
    process.wait()
    last = int([line for line in announced if line.endswith("\n")][-1])

    restored = reopened(tmp_path)

    assert restored is not None
    numbers = [record[2] for record in restored.journal]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > last


def test_a_restart_finds_its_files_whatever_the_feeds_name(tmp_path: Path) -> None:
    """Characters that file names lack do not make two feeds one."""
    names = ["a/../../b:1", "a b:1", "socket.massive.com", "[::1]:80"]
    for name in names:
        save(store_at(tmp_path, feed=name), ["a", "probe", name])

    for name in names:
        restored = reopened(tmp_path, feed=name)
        assert restored is not None
        assert restored.records == [["a", "probe", name]]
    assert all(path.parent == tmp_path for path in tmp_path.rglob("*"))


def test_files_are_msgpack_without_secrets_of_the_configuration(tmp_path: Path) -> None:
    """Their heads hold the feed's address, the market and the format, and nothing else of the settings."""
    save(store_at(tmp_path), ["a", "probe", 1])
    body = the(tmp_path, "snapshot").read_bytes()
    size = int.from_bytes(body[:4], "big")
    head = msgspec.msgpack.decode(body[8 : 8 + size])

    assert set(head) == {"feed", "market", "format", "generation", *HEAD}


_HOLDER = """
import sys
from mdp.cache.persistence import Store
store = Store(sys.argv[1], "127.0.0.1:4300", "stocks")
opened = store.open()
store.write([["theirs"]])
print(opened, flush=True)
sys.stdin.readline()
"""


def test_a_second_process_leaves_the_files_of_the_first_alone(tmp_path: Path) -> None:
    """It would delete the journal that the first one writes to. Once that was killed, it takes over."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path / "mdp")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as first:  # fmt: skip
        assert first.stdout is not None
        assert first.stdout.readline() == "True\n"
        second = store_at(tmp_path)
        assert not save(second, ["ours"])
        assert second.errors == 1
        first.kill()
        first.wait()
    found = reopened(tmp_path)
    assert found is not None
    assert found.journal == [["theirs"]]
    assert save(second, ["ours"])
    found = reopened(tmp_path)
    assert found is not None
    assert (found.records, found.journal) == ([["ours"]], [])
