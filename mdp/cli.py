"""The commands: parsing and printing only.

What a command needs is imported inside it, so that `mdp --help` and a refused configuration
answer at once.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mdp import __version__
from mdp.config import SECRET_KEYS, ConfigError, secrets_of
from mdp.config_load import KEYS, Loaded, check_for_run, flag_of, load

if TYPE_CHECKING:
    from mdp.client import WdsClient

ROLES = ("all",)
LATER_ROLES = ("listener", "processor", "scanner", "wds", "scp")
_SHOWN_SETTINGS = {  # the options that `--help` lists; the rest of the settings work the same way
    "wds.port": "Port of the WebSocket service for clients.",
    "scp.port": "Port of the page.",
    "metrics.port": "Port of /metrics, /healthz and /readyz.",
    "admin.port": "Port of the control API.",
    "log.level": "debug, info, warning, error or critical.",
    "log.format": "json or console.",
}
_MAX_FEEDS = 50  # each has a connection of its own


class Refused(click.ClickException):
    """Nothing was started, because of what the user gave: one line, exit code 2."""

    exit_code = 2


class Failed(click.ClickException):
    """It was tried and did not work: one line, exit code 1."""


def _config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--config",
        "config_path",
        metavar="FILE",
        help="Configuration file  [default: $MDP_CONFIG, else ./config.toml if it is there]",
    )(command)


def _setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Every setting as an option, collected into the command's keyword `flags`.

    Secrets are none: other users of the machine can read a command line.
    """
    names = {f"setting_{key.replace('.', '_')}": key for key in KEYS if key not in SECRET_KEYS}

    def collect(**params: Any) -> Any:
        flags = {key: params.pop(name) for name, key in names.items()}
        return command(flags=flags, **params)

    collect.__doc__ = command.__doc__
    collect.__name__ = command.__name__
    collect.__click_params__ = list(getattr(command, "__click_params__", []))  # type: ignore[attr-defined]
    decorated: Callable[..., Any] = collect
    shown = [key for key in KEYS if key in _SHOWN_SETTINGS]
    hidden = [key for key in KEYS if key not in _SHOWN_SETTINGS and key not in SECRET_KEYS]
    for key in reversed(shown + hidden):
        decorated = click.option(
            flag_of(key),
            f"setting_{key.replace('.', '_')}",
            metavar="VALUE",
            hidden=key in hidden,
            help=_SHOWN_SETTINGS.get(key),
        )(decorated)
    return decorated


def _load(config_path: str | None, flags: Mapping[str, object] | None = None) -> Loaded:
    try:
        return load(config_path, os.environ, flags)
    except ConfigError as error:
        raise Refused(str(error)) from None


def _parse_roles(text: str) -> list[str]:
    roles = [role.strip() for role in text.split(",")]
    for role in roles:
        if role in LATER_ROLES:
            raise Refused(
                f'--role: found "{role}"; allowed: all '
                "(splitting over machines with Redis comes with a later version)"
            )
        if role not in ROLES:
            near = difflib.get_close_matches(role, (*ROLES, *LATER_ROLES), n=1)
            hint = f" (did you mean {near[0]}?)" if near and near[0] in ROLES else ""
            raise Refused(f'--role: found "{role}"; allowed: all{hint}')
    return list(dict.fromkeys(roles))


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
@click.option("--role", default="all", show_default=True, help="What this process does.")
@click.option("--demo", is_flag=True, help="Against a simulated market, started along; needs no key.")
@_config_option
@_setting_options
def run(role: str, demo: bool, config_path: str | None, flags: Mapping[str, object]) -> None:
    """Run the platform until Ctrl-C (twice ends at once).

    Every setting of config.toml is an option, too: massive.feed is --massive-feed, wds.tick_ms is
    --wds-tick-ms. Keys and tokens are not: they belong into the environment or a file.

    \b
    Examples:
      mdp run --role all --demo
      MASSIVE_API_KEY=... mdp run --role all
      mdp run --role all --config my.toml --wds-port 0 --log-format json
      mdp run --role all --massive-feed 127.0.0.1:9999 --massive-secure false
    """
    roles = _parse_roles(role)
    loaded = _load(config_path, flags)
    try:
        check_for_run(loaded, needs_provider_key=not demo)
    except ConfigError as error:
        raise Refused(str(error)) from None

    import structlog

    from mdp import app
    from mdp.observability.logging import configure

    configure(loaded.config.log, secrets_of(loaded.config))
    for warning in loaded.warnings:
        structlog.get_logger(__name__).warning("configuration", warning=warning)
    sys.exit(app.run(loaded.config, roles, app.DemoOptions() if demo else None))


@main.command("config")
@click.option("--check", is_flag=True, help='Print "configuration ok", or what is wrong and exit with 2.')
@_config_option
@_setting_options
def config_command(check: bool, config_path: str | None, flags: Mapping[str, object]) -> None:
    """Show the effective configuration and where each value comes from. Secrets are masked.

    \b
    Examples:
      mdp config
      mdp config --check --config my.toml
      MDP_WDS_PORT=5000 mdp config | grep -v '# default'
    """
    loaded = _load(config_path, flags)
    for warning in loaded.warnings:
        click.echo(f"Warning: {warning}", err=True)
    if check:
        click.echo("configuration ok")
        return
    from mdp.commands import show_config

    if sys.stdout.isatty():
        show_config.print_table(loaded)
    else:
        click.echo(show_config.as_text(loaded))


def _client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        click.option("--api-key", envvar="MDP_API_KEY", show_envvar=True, help="Key for the service."),
        click.option("--url", help="Of the service  [default: from the configuration]"),
        _config_option,
    ):
        command = decorate(command)
    return command


def _address(option: str, key: str, host: str, port: int) -> str:
    """`host:port` to connect to where a server of the configuration listens."""
    if port == 0:
        raise Refused(f"{key} is 0, so the port is not known here: give {option} as `mdp run` printed it")
    if host in ("0.0.0.0", "::"):  # noqa: S104 - the server listens there, we connect to loopback
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"  # noqa: S104
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _client(config_path: str | None, url: str | None, api_key: str | None) -> WdsClient:
    from mdp.client import WdsClient

    if not url:
        wds = _load(config_path).config.wds
        url = f"ws://{_address('--url', 'wds.port', wds.host, wds.port)}/ws"
        # Who may read the configuration may use its keys.
        api_key = api_key or (wds.api_keys[0] if wds.auth_enabled else None)
    elif not url.startswith(("ws://", "wss://")):
        raise Refused(f'--url: found "{url}"; allowed: an address such as ws://127.0.0.1:4202/ws')
    return WdsClient(url, api_key or "")


@main.command()
@click.argument("feeds", metavar="FEED...", nargs=-1, required=True)
@_client_options
def watch(feeds: tuple[str, ...], config_path: str | None, url: str | None, api_key: str | None) -> None:
    """Watch feeds live: tables on a terminal, one JSON line a message in a pipe. Reconnects.

    \b
    Examples:
      mdp watch scanners:top_gainers
      mdp watch quote:AAPL quote:NVDA daily_range_hod_alert
      mdp watch 'stocks:trades:*' | head
      mdp watch scanners:top_volume --url wss://mdp.example/ws
    """
    from rich.console import Console

    from mdp.client import ClientError
    from mdp.commands.watch import watch as watch_feeds

    if len(feeds) > _MAX_FEEDS:
        raise Refused(
            f"found {len(feeds)} feeds; allowed: at most {_MAX_FEEDS} (a wildcard such as quote:* is one)"
        )
    client = _client(config_path, url, api_key)

    async def session() -> None:
        async with client:
            await watch_feeds(client, list(dict.fromkeys(feeds)), Console())

    try:
        asyncio.run(session())
    except KeyboardInterrupt:
        return  # the usual way to end it
    except ClientError as error:
        raise Failed(str(error)) from None


@main.command()
@click.argument("key")
@click.option(
    "--limit", type=click.IntRange(min=1), help="At most so many items of a list or rows of a board."
)
@_client_options
def get(key: str, limit: int | None, config_path: str | None, url: str | None, api_key: str | None) -> None:
    """Print the last value of a feed as JSON; null where there is none.

    \b
    Examples:
      mdp get quote:AAPL
      mdp get scanners:top_gappers --limit 10
      mdp get market:status | jq .
    """
    import orjson

    from mdp.client import ClientError, Disconnected

    client = _client(config_path, url, api_key)

    async def session() -> Any:
        async with client:
            return await client.get(key, limit)

    try:
        value = asyncio.run(session())
    except (ClientError, Disconnected) as error:
        raise Failed(str(error)) from None
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0).decode())


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Stop by itself after so long.")
@click.option("--url", help="Of the admin API, http://host:port  [default: from the configuration]")
@click.option("--token", envvar="MDP_ADMIN_TOKEN", show_envvar=True, help="Token of the admin API.")
@_config_option
def record(
    file: Path, seconds: float | None, url: str | None, token: str | None, config_path: str | None
) -> None:
    """Record the provider's raw frames into FILE (NAME.frames.gz) until Ctrl-C.

    The running `mdp run` writes the file, because the provider allows one connection. A replay of it:
    mdp simulate --replay FILE

    \b
    Examples:
      mdp record today.frames.gz
      mdp record open.frames.gz --seconds 600
    """
    from mdp.commands.record import SUFFIX, Recorder, RecordError

    if not file.name.endswith(SUFFIX) or file.name == SUFFIX:
        raise Refused(f'FILE: found "{file}"; allowed: a name that ends with {SUFFIX}, e.g. today{SUFFIX}')
    if not url:
        admin = _load(config_path).config.admin
        url = f"http://{_address('--url', 'admin.port', admin.host, admin.port)}"
        token = token or admin.token
    recorder = Recorder(url, token or "")
    path = file.absolute()

    def progress(status: dict[str, Any], elapsed: float) -> None:
        click.echo(f"\r{elapsed:6.0f} s  {_recorded(status)}  ", nl=False, err=True)

    async def session() -> dict[str, Any]:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        if seconds is not None:
            loop.call_later(seconds, stop.set)
        return await recorder.record(path, stop, progress)

    click.echo(f"Recording into {path}; Ctrl-C stops.", err=True)
    try:
        final = asyncio.run(session())
    except RecordError as error:
        click.echo(err=True)
        raise Failed(str(error)) from None
    click.echo(f"\nRecorded {_recorded(final)} into {path}", err=True)


def _recorded(status: Mapping[str, Any]) -> str:
    return f"{status.get('frames', 0):,} frames, {status.get('bytes', 0):,} bytes"


def _usage_error(error: ValueError) -> NoReturn:
    raise click.UsageError(str(error)) from None
