"""`python -m mdp.simulator`: the simulator without the rest of the command line."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Sequence

from .faults import FAULTS, parse_fault
from .options import SimulatorOptions, parse_speed
from .server import run


def parse_arguments(arguments: Sequence[str] | None = None) -> SimulatorOptions:
    """Options from command-line arguments; ends the process with code 2 where they are wrong."""
    defaults = SimulatorOptions()
    parser = argparse.ArgumentParser(
        prog="python -m mdp.simulator",
        description="A server that speaks Massive's WebSocket and REST protocols on one port.",
        epilog=f"faults: {', '.join(sorted(FAULTS))}",
    )
    parser.add_argument("--host", default=defaults.host)
    parser.add_argument("--port", type=int, default=4300, help="0 picks a free one (default 4300)")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--symbols", type=int, default=defaults.symbols)
    parser.add_argument(
        "--rate", type=float, default=defaults.events_per_second, help="average events a second"
    )
    parser.add_argument("--speed", default="1", help="market seconds a second, or max")
    parser.add_argument("--start", default=defaults.start, help="New York time, e.g. 2026-03-10T09:25:00")
    parser.add_argument(
        "--replay", default="", metavar="FILE", help="a recording instead of the simulated market"
    )
    parser.add_argument("--replay-end", choices=("stay", "close", "loop"), default="stay")
    parser.add_argument("--second-connection", choices=("allow", "reject", "evict"), default="allow")
    parser.add_argument("--not-authorized", default="", metavar="TOPICS", help="e.g. LULD,Q")
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end with whoever holds the other end of stdin"
    )
    parser.add_argument("--fault", action="append", default=[], metavar="NAME[=VALUE]")
    given = parser.parse_args(arguments)
    if given.until_stdin_closes:
        threading.Thread(target=_end_with_stdin, name="stdin", daemon=True).start()
    try:
        return SimulatorOptions(
            host=given.host,
            port=given.port,
            seed=given.seed,
            symbols=given.symbols,
            events_per_second=given.rate,
            speed=parse_speed(given.speed),
            start=given.start,
            replay=given.replay,
            replay_end=given.replay_end,
            second_connection=given.second_connection,
            not_authorized=[topic for topic in given.not_authorized.split(",") if topic],
            # Keys come by the environment only: arguments are visible to every user of a machine.
            api_keys=[key for key in os.environ.get("MDP_SIMULATOR_API_KEYS", "").split(",") if key],
            faults=dict(parse_fault(fault) for fault in given.fault),
        )
    except ValueError as error:
        parser.error(str(error))


def _end_with_stdin() -> None:
    """Whoever started us is gone, however it went: nobody else would end us."""
    # Not `sys.stdin`: a thread that waits in its buffer makes the interpreter abort at its own end.
    while os.read(0, 1024):
        pass
    os._exit(0)


def main() -> None:
    """Serve until Ctrl-C."""
    options = parse_arguments()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(options))
    except (ValueError, OSError) as error:
        print(f"simulator: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ValueError) else 1)


if __name__ == "__main__":
    main()
