"""Settings and their text forms, and the command of the module."""

from __future__ import annotations

import asyncio
import json
import signal
import sys

import pytest

from mdp.simulator import MAX_SPEED, Simulator, SimulatorOptions, parse_speed
from mdp.simulator.__main__ import parse_arguments
from mdp.simulator.options import check, parse_start


def test_speed_is_a_number_or_max() -> None:
    """Nothing else, and nothing that stands still."""
    assert parse_speed("max") == MAX_SPEED
    assert parse_speed("2.5") == 2.5
    for text in ("0", "-1", "fast", "nan", "inf", ""):
        with pytest.raises(ValueError, match="speed must be"):
            parse_speed(text)


def test_start_is_new_york_time_unless_it_says_otherwise() -> None:
    """A bare time is New York's, in summer and in winter."""
    assert parse_start("2026-03-10T09:25:00") == 1_773_149_100_000
    assert parse_start("2026-03-10T13:25:00+00:00") == 1_773_149_100_000
    assert parse_start("2026-01-12T09:25:00") == parse_start("2026-01-12T14:25:00+00:00")
    with pytest.raises(ValueError, match="start must look like"):
        parse_start("tomorrow")


@pytest.mark.parametrize(
    "settings",
    [
        {"symbols": 0},
        {"events_per_second": 0},
        {"speed": -1},
        {"port": 70_000},
        {"events_per_frame": 0},
        {"start": "x"},
        {"slow_consumer_bytes": 0},
    ],
)
def test_impossible_settings_are_refused_by_name(settings: dict[str, object]) -> None:
    """Before anything is started."""
    options = SimulatorOptions(**settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=next(iter(settings))):
        check(options)
    with pytest.raises(ValueError, match=next(iter(settings))):
        Simulator(options)


def test_arguments_become_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every flag, and keys by the environment only."""
    monkeypatch.setenv("MDP_SIMULATOR_API_KEYS", "one,two")
    line = (
        "--port 0 --seed 7 --symbols 50 --rate 100 --speed max --replay-end close --second-connection evict "
        "--not-authorized LULD,Q --fault late_bars=0.5 --fault http_401"
    )
    options = parse_arguments(line.split())
    assert options == SimulatorOptions(
        port=0,
        seed=7,
        symbols=50,
        events_per_second=100.0,
        speed=MAX_SPEED,
        replay_end="close",
        second_connection="evict",
        not_authorized=["LULD", "Q"],
        api_keys=["one", "two"],
        faults={"late_bars": 0.5, "http_401": 1.0},
    )
    assert "one" not in repr(options)


@pytest.mark.parametrize("arguments", ["--speed fast", "--fault nonsense", "--fault stall=x", "--port x"])
def test_wrong_arguments_end_with_code_2(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And one line that says what is wrong."""
    with pytest.raises(SystemExit) as caught:
        parse_arguments(arguments.split())
    assert caught.value.code == 2
    assert arguments.split()[1].partition("=")[0] in capsys.readouterr().err


async def test_the_command_says_where_it_listens_and_ends_on_ctrl_c() -> None:
    """Its last line at the start is JSON with the port, which is open by then; SIGINT ends it cleanly."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "mdp.simulator", "--port", "0", "--symbols", "50"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(30):
        lines = [(await process.stdout.readline()).decode() for _ in range(3)]
        address = json.loads(lines[2])
        assert lines[0] == f"simulator listening on ws://127.0.0.1:{address['port']}/stocks\n"
        _, writer = await asyncio.open_connection(address["host"], address["port"])
        writer.close()
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
        assert await process.stderr.read() == b""
