"""`mdp keys`: make, list and revoke the API keys of the service."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from mdp.commands.common import Failed, Refused, config_option, load_or_refuse

if TYPE_CHECKING:
    from mdp.wds.keys import KeyFile

_DAYS = re.compile(r"(\d{1,5})([dh])")
_COLUMNS = ("id", "name", "state", "feeds", "created", "expires")


@click.group(short_help="Make, list and revoke keys for clients.")
def keys() -> None:
    """API keys of the WebSocket service (wds.auth_enabled = true), kept as digests in wds.keys_path.

    A running service notices changes within a second or two; who is connected with a revoked key is closed.

    \b
    Examples:
      mdp keys add "Trading desk"
      mdp keys add Widget --feeds "scanners:*" --feeds "quote:*" --expires 30d
      mdp keys list
      mdp keys revoke 5f2c9a1b7e04
    """


@keys.command("add")
@click.argument("name")
@click.option(
    "--feeds",
    multiple=True,
    metavar="PATTERN",
    help='Feed or wildcard that may be read, e.g. "quote:*"; repeatable  [default: every feed]',
)
@click.option(
    "--expires", default="", metavar="DATE|30d|12h", help="Last until then (UTC)  [default: no end]"
)
@config_option
def add(name: str, feeds: tuple[str, ...], expires: str, config_path: str | None) -> None:
    """Make a key and print it: on standard output, this once. Only a digest of it is kept."""
    from mdp.wds.keys import KeyFileError, new_key, utc_now
    from mdp.wds.permissions import ALL_FEEDS

    if not (0 < len(name) <= 100 and name.isprintable()):
        raise Refused("NAME: allowed: 1 to 100 printable characters")
    file = _file(config_path)
    now = utc_now()
    end = _end(expires, now)
    try:
        key, entry = new_key(name, list(feeds) or [ALL_FEEDS], end, now)
        file.add(entry)
    except ValueError as error:
        raise Refused(f"--feeds: {error}") from None
    except KeyFileError as error:
        raise Failed(str(error)) from None
    until = f"until {_time(end)}" if end else "without an end"
    click.echo(f"Key {entry.id} for {name}, {until}, is kept in {file.path}. It is shown only now:", err=True)
    click.echo(key)


@keys.command("list")
@config_option
def list_(config_path: str | None) -> None:
    """List all keys, revoked ones too; the keys themselves are not known."""
    from mdp.wds.keys import KeyFileError, utc_now

    file = _file(config_path)
    try:
        found = file.read()
    except KeyFileError as error:
        raise Failed(str(error)) from None
    if not found:
        click.echo(f"No keys in {file.path}", err=True)
        return
    now = utc_now().timestamp()
    rows = [_COLUMNS]
    for entry in found:
        feeds = " ".join("all" if feed == "**" else feed for feed in entry.feeds) or "none"
        expires = _time(entry.expires) if entry.expires else "never"
        rows.append((entry.id, entry.name, entry.state_at(now), feeds, _time(entry.created), expires))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


@keys.command("revoke")
@click.argument("key_id", metavar="ID")
@config_option
def revoke(key_id: str, config_path: str | None) -> None:
    """Revoke the key with this ID (as `mdp keys list` shows it). It stays in the list."""
    from mdp.wds.keys import KeyFileError, utc_now

    file = _file(config_path)
    try:
        entry = file.revoke(key_id, utc_now())
    except KeyFileError as error:
        raise Failed(str(error)) from None
    if entry is None:
        # Not repeated: somebody may have pasted the whole key.
        raise Refused(f"ID: no key in {file.path} has this id; see `mdp keys list`")
    click.echo(f"Key {entry.id} for {entry.name} is revoked", err=True)


def _file(config_path: str | None) -> KeyFile:
    from mdp.wds.keys import KeyFile

    path = load_or_refuse(config_path).config.wds.keys_path
    if not path:
        raise Refused('wds.keys_path: found ""; allowed: a path, here')
    return KeyFile(path)


def _end(text: str, now: datetime) -> datetime | None:
    """When a key ends, from a date (its end, UTC), a time, or a number of days or hours."""
    if not text:
        return None
    allowed = "allowed: a date or time to come such as 2030-01-31 or 2030-01-31T18:00Z, or 30d, or 12h"
    end: datetime
    try:
        if span := _DAYS.fullmatch(text):
            number = int(span[1])
            end = now + (timedelta(days=number) if span[2] == "d" else timedelta(hours=number))
        elif re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            end = datetime.fromisoformat(text).replace(tzinfo=UTC) + timedelta(days=1)
        else:
            end = datetime.fromisoformat(text)
            end = end.replace(tzinfo=UTC) if end.tzinfo is None else end.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Refused(f"--expires: found {text[:40]!a}; {allowed}") from None
    if end <= now:
        raise Refused(f"--expires: {_time(end)} has passed; {allowed}")
    return end


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
