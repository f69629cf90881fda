"""The commands that talk to a running mdp: watch, get, explain and record."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mdp.commands.common import Failed, Refused, config_option, load_or_refuse

if TYPE_CHECKING:
    from mdp.client import WdsClient

_MAX_FEEDS = 50  # more fit on no terminal


def _client_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        click.option("--api-key", envvar="MDP_API_KEY", show_envvar=True, help="Key for the service."),
        click.option("--url", help="Of the service  [default: from the configuration]"),
        config_option,
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
        wds = load_or_refuse(config_path).config.wds
        url = f"{'wss' if wds.tls_cert else 'ws'}://{_address('--url', 'wds.port', wds.host, wds.port)}/ws"
        # Who may read the configuration may use its keys.
        api_key = api_key or (wds.api_keys[0] if wds.auth_enabled and wds.api_keys else None)
    elif not url.startswith(("ws://", "wss://")):
        raise Refused(f'--url: found "{url}"; allowed: an address such as ws://127.0.0.1:4202/ws')
    return WdsClient(url, api_key or "")


@click.command(short_help="Watch feeds live in the terminal.")
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
        raise _failed(error, api_key) from None


def _failed(error: Exception, api_key: str | None) -> Failed:
    """What to tell, also what a key would have helped."""
    hint = "" if api_key or " auth " not in str(error) else "; give a key with --api-key or MDP_API_KEY"
    return Failed(f"{error}{hint}")


@click.command(short_help="Print the last value of a feed as JSON.")
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
        raise _failed(error, api_key) from None
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0).decode())


def _admin_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for decorate in (
        config_option,
        click.option("--token", envvar="MDP_ADMIN_TOKEN", show_envvar=True, help="Token of the admin API."),
        click.option("--url", help="Of the admin API, http://host:port  [default: from the configuration]"),
    ):
        command = decorate(command)
    return command


def _admin(config_path: str | None, url: str | None, token: str | None) -> tuple[str, str]:
    """Address and token of the admin API."""
    if not url:
        admin = load_or_refuse(config_path).config.admin
        url = f"http://{_address('--url', 'admin.port', admin.host, admin.port)}"
        token = token or admin.token
    elif not url.startswith(("http://", "https://")):
        raise Refused(f'--url: found "{url}"; allowed: an address such as http://127.0.0.1:4201')
    return url, token or ""


@click.command(short_help="Say how a symbol's numbers come about.")
@click.argument("symbol")
@click.argument("field", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON also on a terminal, as in a pipe.")
@_admin_options
def explain(
    symbol: str,
    field: str | None,
    as_json: bool,
    config_path: str | None,
    url: str | None,
    token: str | None,
) -> None:
    """Say how the numbers of SYMBOL come about: rule, inputs, source and time of each; or of one FIELD.

    Tables on a terminal, JSON in a pipe. Asks the running `mdp run`.

    \b
    Examples:
      mdp explain AAPL
      mdp explain AAPL pct_change
      mdp explain AAPL trade_stats.vwap
      mdp explain AAPL --json | jq .fields.relative_volume
    """
    import orjson
    from rich.console import Console

    from mdp.commands import explain as explaining
    from mdp.commands.admin_api import AdminError

    address, secret = _admin(config_path, url, token)
    try:
        answer = asyncio.run(explaining.fetch(address, secret, symbol))
        if as_json or not sys.stdout.isatty():
            value = explaining.one_field(answer, field) if field else answer
            click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0).decode())
        else:
            shown = explaining.detail(answer, field) if field else explaining.overview(answer)
            Console().print(shown)
    except AdminError as error:
        raise Failed(str(error)) from None
    except explaining.NoFieldError as error:
        raise Refused(str(error)) from None


@click.command(short_help="Record the provider's raw frames into a file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Stop by itself after so long.")
@_admin_options
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
    recorder = Recorder(*_admin(config_path, url, token))
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
    dropped = status.get("dropped", 0)
    return f"{status.get('frames', 0):,} frames" + (f" ({dropped:,} dropped)" if dropped else "")
