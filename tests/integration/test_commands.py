"""The commands as a user runs them: processes of their own, against a running demo."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 60.0  # a limit for a broken start, not a measure
MDP = str(Path(sys.executable).with_name("mdp"))


def surroundings(folder: Path) -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MDP_")}
    return kept | {"MDP_CACHE_SNAPSHOT_PATH": str(folder / "snapshot")}


class Running:
    """`mdp run --demo` on free ports."""

    def __init__(self, folder: Path) -> None:
        ports = [word for name in ("wds", "scp", "metrics", "admin") for word in (f"--{name}-port", "0")]
        self.process = subprocess.Popen(
            [MDP, "run", "--role", "all", "--demo", "--log-format", "json", *ports],
            cwd=folder,
            env=surroundings(folder),
            stderr=subprocess.PIPE,
            text=True,
        )
        self.folder = folder
        self.ports: dict[str, int] = {}
        self.log: list[dict[str, Any]] = []
        self._started = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            entry = json.loads(line)
            self.log.append(entry)
            if entry["event"] == "listening":
                self.ports[entry["service"]] = entry["port"]
            if entry["event"] == "started":
                self._started.set()
        self._started.set()

    def wait_until_started(self) -> None:
        """Until it says so, or has ended."""
        assert self._started.wait(START_SECONDS), self.log
        assert self.process.poll() is None, self.log

    def stop(self) -> int:
        """Ctrl-C; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(START_SECONDS)
        self._reader.join(START_SECONDS)
        return code

    def mdp(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command beside it."""
        return subprocess.run(
            [MDP, *arguments],
            cwd=self.folder,
            env=surroundings(self.folder),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )

    @property
    def url(self) -> str:
        """Of the WebSocket service."""
        return f"ws://127.0.0.1:{self.ports['wds']}/ws"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One demo for all tests of this module."""
    demo = Running(tmp_path_factory.mktemp("demo"))
    try:
        demo.wait_until_started()
        yield demo
    finally:
        demo.stop()


def test_free_ports_are_picked_and_told(running: Running) -> None:
    """Each of the four, and every line of the log is JSON."""
    assert set(running.ports) == {"wds", "scp", "metrics", "admin"}
    assert len(set(running.ports.values())) == 4
    assert 0 not in running.ports.values()


def test_get_prints_a_value_or_null_or_why_not(running: Running) -> None:
    """JSON on standard output; a refused key is exit code 1."""
    nothing = running.mdp("get", "quote:NO.SUCH", "--url", running.url)
    assert (nothing.returncode, json.loads(nothing.stdout)) == (0, None)
    refused = running.mdp("get", "no_such_feed", "--url", running.url)
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.startswith("Error: no_such_feed was refused: ")


def test_watch_prints_json_lines_until_interrupted(running: Running) -> None:
    """In a pipe; Ctrl-C is its ordinary end, without a traceback."""
    with subprocess.Popen(
        [MDP, "watch", "scanners:top_volume", "--url", running.url],
        cwd=running.folder,
        env=surroundings(running.folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        message = json.loads(watching.stdout.readline())
        watching.send_signal(signal.SIGINT)
        assert watching.wait(START_SECONDS) == 0
        assert watching.stderr.read() == ""
    assert message["feed"] == "scanners:top_volume"
    assert isinstance(message["data"], list)


def test_record_writes_frames_that_simulate_replays(running: Running) -> None:
    """A recording is in the format that a replay takes; it is not overwritten by a second one."""
    address = f"http://127.0.0.1:{running.ports['admin']}"
    done = running.mdp("record", "a.frames.gz", "--seconds", "1.5", "--url", address)
    assert done.returncode == 0, done.stderr
    path = running.folder / "a.frames.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines()
    assert lines
    for line in lines:
        arrival, _, frame = line.partition(b"\t")
        assert int(arrival) > 1_600_000_000 * 10**9
        assert isinstance(json.loads(frame), list)
    again = running.mdp("record", "a.frames.gz", "--seconds", "1", "--url", address)
    assert again.returncode == 1
    assert "exists already" in again.stderr

    with subprocess.Popen(
        [MDP, "simulate", "--replay", str(path), "--port", "0", "--speed", "max"],
        env=surroundings(running.folder),
        stdout=subprocess.PIPE,
        text=True,
    ) as simulator:
        assert simulator.stdout is not None
        assert "simulator listening on ws://127.0.0.1:" in simulator.stdout.readline()
        simulator.send_signal(signal.SIGINT)
        assert simulator.wait(START_SECONDS) == 0


def test_explain_says_how_a_number_comes_about(running: Running) -> None:
    """JSON in a pipe; what is computed follows from its inputs; an unknown symbol is exit code 1."""
    address = ("--url", f"http://127.0.0.1:{running.ports['admin']}")
    board: list[dict[str, Any]] = []
    for _ in range(50):  # a demo that has just begun has no rows yet
        got = running.mdp("get", "scanners:top_volume", "--limit", "1", "--url", running.url)
        board = json.loads(got.stdout) or []
        if board:
            break
    symbol = board[0]["symbol"]
    told = json.loads(running.mdp("explain", symbol, "change_since_open", *address).stdout)
    inputs = {name: fact["value"] for name, fact in told["inputs"].items()}
    assert told["value"] == inputs["close"] - inputs["open"]
    done = running.mdp("explain", "NOPE", *address)
    assert done.returncode == 1
    assert "check its spelling" in done.stderr


def test_ctrl_c_ends_a_run_cleanly(running: Running) -> None:
    """Exit code 0, and the last word is that it has stopped. (The last test: the demo is gone then.)"""
    assert running.stop() == 0
    assert running.log[-1]["event"] == "stopped"
    assert not [entry for entry in running.log if entry["level"] in ("error", "critical")]
