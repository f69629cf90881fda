"""The commands: parsing and printing only.

What a command needs is imported inside it, so that `mdp --help` and a refused configuration
answer at once.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Literal

import click

from mdp import __version__
from mdp.commands.bench import bench
from mdp.commands.common import Failed, Refused, config_option, load_or_refuse, setting_options
from mdp.commands.history import history
from mdp.commands.keys import keys
from mdp.commands.remote import explain, get, record, watch
from mdp.config import ConfigError, secrets_of
from mdp.config_load import check_for_run, flag_of

ROLES = ("all", "listener", "processor", "scanner", "wds", "scp")
_NEED_KEY = frozenset({"all", "listener", "processor"})  # of the provider: its stream, its REST endpoints


def _parse_roles(text: str) -> list[str]:
    """`all`, or roles that make up this process, each once.

    Raises:
        Refused: Another name, or `all` beside others.
    """
    roles = list(dict.fromkeys(role.strip() for role in text.split(",")))
    for role in roles:
        if role not in ROLES:
            near = difflib.get_close_matches(role, ROLES, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise Refused(f'--role: found "{role}"; allowed: all, or some of {", ".join(ROLES[1:])}{hint}')
    if "all" in roles and len(roles) > 1:
        raise Refused(f'--role: found "{text}"; allowed: all alone, it is every role')
    return roles


def _refuse_flags_without_effect(flags: Mapping[str, object], demo: bool, alone: bool) -> None:
    """Who gives such a flag expects something of it. In a file or the environment it may be meant for others.

    Raises:
        Refused: An address beside `--demo`, or what only `--role processor` does.
    """
    given = {key for key, value in flags.items() if value is not None}
    for key in ("massive.feed", "massive.rest_url"):
        if demo and key in given:
            raise Refused(
                f"{flag_of(key)}: found beside --demo; allowed: one of them (a demo has its own feed)"
            )
    for key in ("processor.workers", "processor.partitions"):
        if alone and key in given:
            raise Refused(f"{flag_of(key)}: found with --role all; allowed: with --role processor")


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mdp")
@click.pass_context
def main(context: click.Context) -> None:
    """The whole US stock market, live, from one WebSocket.

    \b
    Try it without a key:
      mdp run --role all --demo        then open http://127.0.0.1:8000
    \b
    On the real market:
      MASSIVE_API_KEY=... mdp run --role all
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@main.command()
@click.option(
    "--role",
    default="all",
    show_default=True,
    metavar="ROLE[,ROLE]",
    help="What this process does: all, or some of listener, processor, scanner, wds, scp.",
)
@click.option("--demo", is_flag=True, help="Against a simulated market, started along; needs no key.")
@config_option
@setting_options
def run(role: str, demo: bool, config_path: str | None, flags: Mapping[str, object]) -> None:
    """Run the platform until Ctrl-C (twice ends at once).

    Every setting of config.toml is an option, too: massive.feed is --massive-feed, wds.tick_ms is
    --wds-tick-ms. Keys and tokens are not: they belong into the environment or a file.

    One process is all it takes. Split into roles, processes meet in Redis (docs/redis.md): each --role but
    "all" implies it; "all" uses it with --mdq-backend redis.

    \b
    Examples:
      mdp run --role all --demo
      MASSIVE_API_KEY=... mdp run --role all
      mdp run --role all --config my.toml --wds-port 0 --log-format json
      mdp run --role all --massive-feed 127.0.0.1:9999 --massive-secure false
      mdp run --role wds,scp --cache-url redis://redis.example:6379/0
    """
    roles = _parse_roles(role)
    if demo and roles != ["all"]:
        raise Refused("--demo: found a split role; allowed: --role all (a demo is one process)")
    loaded = load_or_refuse(config_path, flags)
    alone = roles == ["all"] and loaded.config.mdq.backend == "memory"
    _refuse_flags_without_effect(flags, demo, alone)
    try:
        check_for_run(loaded, needs_provider_key=not demo and bool(_NEED_KEY & set(roles)))
    except ConfigError as error:
        raise Refused(str(error)) from None

    import structlog

    from mdp.demo import DemoOptions
    from mdp.observability.logging import configure

    configure(loaded.config.log, secrets_of(loaded.config))
    for warning in loaded.warnings:
        structlog.get_logger(__name__).warning("configuration", warning=warning)
    process = import_module("mdp.app" if alone else "mdp.roles.assembly")
    sys.exit(process.run(loaded.config, roles, DemoOptions() if demo else None))


@main.command("config", short_help="Show or check the settings.")
@click.option("--check", is_flag=True, help='Print "configuration ok", or what is wrong and exit with 2.')
@config_option
@setting_options
def config_command(check: bool, config_path: str | None, flags: Mapping[str, object]) -> None:
    """Show the effective configuration and where each value comes from. Secrets are masked.

    \b
    Examples:
      mdp config
      mdp config --check --config my.toml
      MDP_WDS_PORT=5000 mdp config | grep -v '# default'
    """
    loaded = load_or_refuse(config_path, flags)
    for warning in loaded.warnings:
        click.echo(f"Warning: {warning}", err=True)
    from mdp.commands import show_config

    if check:
        show_config.load_parts(loaded.config)
        click.echo("configuration ok")
        return
    if sys.stdout.isatty():
        show_config.print_table(loaded)
    else:
        click.echo(show_config.as_text(loaded))


@main.command(short_help="Serve a simulated market, or a recorded day.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=4300, show_default=True, help="0 picks a free one and prints it.")
@click.option(
    "--replay", default="", metavar="FILE", help="Send a recording instead of the simulated market."
)
@click.option("--speed", default="1", metavar="N|max", show_default=True, help="Market seconds a second.")
@click.option("--replay-end", type=click.Choice(["stay", "close", "loop"]), default="stay", show_default=True)
@click.option("--seed", default=1, show_default=True, help="Same seed, same market.")
@click.option("--symbols", default=11_000, show_default=True, help="Symbols of the simulated market.")
@click.option("--rate", default=5_000.0, show_default=True, help="Average events a second.")
@click.option("--start", default=None, metavar="TIME", help="New York time, e.g. 2026-03-10T09:25:00.")
@click.option(
    "--second-connection",
    type=click.Choice(["allow", "reject", "evict"]),
    default="allow",
    show_default=True,
    help="What a second connection with the same key does.",
)
@click.option("--not-authorized", default="", metavar="TOPICS", help="Topics the plan lacks, e.g. LULD,Q.")
@click.option(
    "--fault", "faults", multiple=True, metavar="NAME[=VALUE]", help="Switch a fault on; repeatable."
)
def simulate(
    *,
    host: str,
    port: int,
    replay: str,
    speed: str,
    replay_end: Literal["stay", "close", "loop"],
    seed: int,
    symbols: int,
    rate: float,
    start: str | None,
    second_connection: Literal["allow", "reject", "evict"],
    not_authorized: str,
    faults: tuple[str, ...],
) -> None:
    """Serve Massive's WebSocket and REST protocols: a simulated market, or a recorded day.

    For the tests of anyone who builds a client. Keys that it accepts: MDP_SIMULATOR_API_KEYS
    (comma-separated); any key without it.

    \b
    Examples:
      mdp simulate
      mdp simulate --replay day.frames.gz --speed 60
      mdp simulate --port 0 --symbols 500 --rate 50000 --fault late_bars=0.05
    """
    from mdp.config import LogConfig
    from mdp.observability.logging import configure
    from mdp.simulator import SimulatorOptions, parse_fault, parse_speed
    from mdp.simulator import run as run_simulator

    configure(LogConfig())
    try:
        options = SimulatorOptions(
            host=host,
            port=port,
            seed=seed,
            symbols=symbols,
            events_per_second=rate,
            speed=parse_speed(speed),
            replay=replay,
            replay_end=replay_end,
            second_connection=second_connection,
            not_authorized=[topic for topic in not_authorized.split(",") if topic],
            api_keys=[key for key in os.environ.get("MDP_SIMULATOR_API_KEYS", "").split(",") if key],
            faults=dict(parse_fault(fault) for fault in faults),
        )
        if start is not None:
            options.start = start
        asyncio.run(run_simulator(options))
    except KeyboardInterrupt:
        return
    except ValueError as error:
        raise Refused(str(error)) from None
    except OSError as error:
        raise Failed(f"cannot serve on {host}:{port}: {error.strerror or error}") from None


main.add_command(bench)
main.add_command(watch)
main.add_command(get)
main.add_command(explain)
main.add_command(record)
main.add_command(history)
main.add_command(keys)
