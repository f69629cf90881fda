"""`mdp bench`: measures this machine and this version."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import click


@click.group()
def bench() -> None:
    """Measure: figures to compare, never a verdict on speed.

    \b
    Examples:
      mdp bench ingest
      mdp bench ingest --suite --json results.json
      mdp bench fanout
      mdp bench queues
    """


@bench.command()
@click.option("--clients", default=500, show_default=True, help="Clients, for throughput.")
@click.option("--seconds", default=2.0, show_default=True, help="Of each measurement.")
@click.option("--rounds", default=3, show_default=True, help="Of throughput; the median counts.")
@click.option("--many", default=2_000, show_default=True, help="Clients of boards and quotes, for latency.")
@click.option("--idle", default=5_000, show_default=True, help="Connections that do nothing, for memory.")
@click.option("--json", "json_path", default="", metavar="FILE", help="Write the result there, too.")
def fanout(*, clients: int, seconds: float, rounds: int, many: int, idle: int, json_path: str) -> None:
    """From the bus to thousands of WebSocket clients: deliveries/s, latency, memory, bytes.

    \b
    Examples:
      mdp bench fanout
      mdp bench fanout --clients 100 --many 200 --idle 500
    """
    from mdp.bench import fanout as measurement
    from mdp.config import LogConfig
    from mdp.observability.logging import configure

    configure(LogConfig(level="warning"))
    options = measurement.FanoutOptions(clients, seconds, rounds, many, idle, json=json_path)
    sys.exit(measurement.main(options))


@bench.command()
@click.option(
    "--mode",
    type=click.Choice(["closed", "open"]),
    default="closed",
    show_default=True,
    help="closed: as fast as it is read, for throughput. open: at a fixed rate, for latency and overload.",
)
@click.option(
    "--rate",
    default="100000",
    show_default=True,
    metavar="N|Nx",
    help="Events a second, in open mode; 1.5x: of the closed loop's throughput, measured first.",
)
@click.option(
    "--mix",
    type=click.Choice(["all", "aggregates"]),
    default="all",
    show_default=True,
    help="all: trades, quotes, aggregates 2:8:1.",
)
@click.option("--events-per-frame", default=100, show_default=True)
@click.option("--symbols", default=11_000, show_default=True)
@click.option("--zipf", default=0.9, show_default=True, help="How unequally symbols trade; 0 is equally.")
@click.option("--seed", default=1, show_default=True)
@click.option("--seconds", default=15.0, show_default=True, help="How long is measured.")
@click.option("--warmup", default=5.0, show_default=True, help="Seconds before that.")
@click.option(
    "--credit-bytes",
    default=8 * 1024 * 1024,
    show_default=True,
    help="Sent and not processed, at most, in closed mode; 0: TCP alone decides.",
)
@click.option(
    "--full-windows", default=0, show_default=True, help="Symbols whose trade windows are filled first."
)
@click.option("--clients", default=10, show_default=True, help="WebSocket clients.")
@click.option("--quotes", default=20, show_default=True, help="Quotes that each of them subscribes to.")
@click.option(
    "--rest",
    type=click.Choice(["well", "429", "500", "garbage", "silent", "slow"]),
    default="well",
    show_default=True,
    help="How the provider's REST endpoints answer, from the start to the end.",
)
@click.option(
    "--compare-symbols",
    multiple=True,
    type=int,
    metavar="N",
    help="Cost per event at N symbols; give it twice.",
)
@click.option("--suite", is_flag=True, help="The whole table of targets; takes minutes.")
@click.option("--json", "json_path", default="", metavar="FILE", help="Write the result there, too.")
def ingest(
    *,
    mode: Literal["closed", "open"],
    rate: str,
    mix: Literal["all", "aggregates"],
    events_per_frame: int,
    symbols: int,
    zipf: float,
    seed: int,
    seconds: float,
    warmup: float,
    credit_bytes: int,
    full_windows: int,
    clients: int,
    quotes: int,
    rest: Literal["well", "429", "500", "garbage", "silent", "slow"],
    compare_symbols: tuple[int, ...],
    suite: bool,
    json_path: str,
) -> None:
    """From the provider's wire to WebSocket clients: events a second, latency, memory, accounting.

    Exit code 1 if a single event is unaccounted for.

    \b
    Examples:
      mdp bench ingest
      mdp bench ingest --mode open --rate 100000 --seconds 60
      mdp bench ingest --mode open --rest 429
      mdp bench ingest --compare-symbols 1000 --compare-symbols 20000
      mdp bench ingest --suite --json results.json
    """
    from mdp.bench import ingest as measurement
    from mdp.bench.options import IngestOptions
    from mdp.commands.common import Refused
    from mdp.config import LogConfig
    from mdp.observability.logging import configure

    if json_path and not Path(json_path).absolute().parent.is_dir():
        raise Refused(f'--json: found "{json_path}"; allowed: a file in a folder that exists')
    configure(LogConfig(level="warning"))
    options = IngestOptions(
        mode=mode,
        rate=rate,
        mix=mix,
        events_per_frame=events_per_frame,
        symbols=symbols,
        zipf=zipf,
        seed=seed,
        seconds=seconds,
        warmup=warmup,
        credit_bytes=credit_bytes,
        full_windows=full_windows,
        clients=clients,
        quotes=quotes,
        rest=rest,
        compare_symbols=list(compare_symbols),
        suite=suite,
        json=json_path,
    )
    sys.exit(measurement.main(options))


@bench.command()
@click.option("--processors", default="1", show_default=True, metavar="N[,N]", help="Replicas; each a run.")
@click.option("--wds", default="1", show_default=True, metavar="N[,N]", help="Replicas; each a run.")
@click.option("--seconds", default=15.0, show_default=True, help="Of closed loop, on each side.")
@click.option("--warmup", default=5.0, show_default=True, help="Seconds before that, on each side.")
@click.option(
    "--rate",
    default=200_000.0,
    show_default=True,
    help="Events a second offered, to count commands; 0: skip.",
)
@click.option(
    "--latency-rate", default=50_000.0, show_default=True, help="The same for latency of quotes; 0: skip."
)
@click.option("--open-seconds", default=10.0, show_default=True, help="Of each of these two.")
@click.option("--events-per-frame", default=100, show_default=True)
@click.option("--symbols", default=11_000, show_default=True)
@click.option("--zipf", default=0.9, show_default=True, help="How unequally symbols trade; 0 is equally.")
@click.option("--seed", default=1, show_default=True)
@click.option(
    "--credit-bytes", default=8 * 1024 * 1024, show_default=True, help="Sent and not processed, at most."
)
@click.option("--clients", default=10, show_default=True, help="WebSocket clients of each data service.")
@click.option("--quotes", default=20, show_default=True, help="Quotes that each of them subscribes to.")
@click.option("--cores", default=2, show_default=True, help="For all processes together.")
@click.option(
    "--alone/--no-alone", default=True, show_default=True, help="Measure one process in memory, too."
)
@click.option("--json", "json_path", default="", metavar="FILE", help="Write the results there, too.")
def queues(*, processors: str, wds: str, json_path: str, **others: Any) -> None:
    """Through a real Redis: listener, processors and data services, each a process, on two cores.

    Starts a redis-server of its own, measures throughput in turns with one process in memory, Redis's
    commands, CPU, latency and memory. Exit code 1 if a single event is unaccounted for.

    \b
    Examples:
      mdp bench queues
      mdp bench queues --processors 1,2,4 --no-alone
      mdp bench queues --wds 1,2,4 --json results.json
    """
    from mdp.bench import queues as measurement
    from mdp.bench.queues_options import QueuesOptions, replicas
    from mdp.commands.common import Refused
    from mdp.config import LogConfig
    from mdp.observability.logging import configure

    if json_path and not Path(json_path).absolute().parent.is_dir():
        raise Refused(f'--json: found "{json_path}"; allowed: a file in a folder that exists')
    replicated: dict[str, Any] = {}
    for name, text in (("processors", processors), ("wds", wds)):
        try:
            replicated[name] = replicas(text)
        except ValueError as exc:
            raise Refused(f"--{name}: {exc}") from None
    configure(LogConfig(level="warning"))
    sys.exit(measurement.main(QueuesOptions(**replicated, **others, json=json_path)))
