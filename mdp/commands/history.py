"""`mdp history`: usual volumes by time of day from recordings, and what there is of them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mdp.commands.common import Failed, Refused, config_option, load_or_refuse, setting_options

if TYPE_CHECKING:
    from mdp.analyzers.volume_history import DayVolumes

_Rows = list[tuple[str, ...]]
_COLUMNS = ("day", "symbols", "slots covered", "complete", "kept")


@click.command(short_help="Build the volume history from recordings, or list it.")
@click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path(path_type=Path))
@config_option
@setting_options
def history(files: tuple[Path, ...], config_path: str | None, flags: Mapping[str, object]) -> None:
    """Build days of the volume history from recordings (NAME.frames.gz); without FILE, list it.

    `mdp run` records each day by itself. relative_volume_at_time compares with these days. A day is kept
    for the feed of the configuration (massive.feed), unless one that covers more is there.

    \b
    Examples:
      mdp history
      mdp history monday.frames.gz tuesday.frames.gz
      mdp history replay.frames.gz --massive-feed 127.0.0.1:4300
    """
    config = load_or_refuse(config_path, flags).config
    if not config.cache.history_path:
        raise Refused('cache.history_path: found ""; allowed: a folder, here')

    from mdp.config import LogConfig
    from mdp.observability.logging import configure
    from mdp.processor.volume_files import VolumeFiles

    configure(LogConfig(level="warning", format=config.log.format))
    kept = VolumeFiles(
        config.cache.history_path, config.massive.feed, config.massive.market, keep=config.cache.history_days
    )
    rows: _Rows = []
    if not files:
        for day in kept.days():
            volumes = kept.read(day)
            rows.append(
                (day.isoformat(), "", "", "", "unusable") if volumes is None else _row(volumes, "yes")
            )
        _print(rows, f"No recorded days in {kept.folder}")
        return

    from mdp.commands.volumes import recorded_days
    from mdp.exchange_calendar import ALWAYS_OPEN, ExchangeCalendar
    from mdp.simulator.recording import RecordingError

    days = recorded_days(
        list(dict.fromkeys(files)),
        ExchangeCalendar(every_day=config.massive.market in ALWAYS_OPEN),
        max_symbols=config.processor.max_symbols,
        include_otc=config.processor.include_otc,
        on_error=lambda text: click.echo(f"Warning: {text}", err=True),
    )
    try:
        for volumes in days:
            if not volumes.covered:
                rows.append(_row(volumes, "no: covers no slot"))
                continue
            failed = kept.errors
            written = kept.write(volumes)
            if kept.errors > failed:
                raise Failed(f"cannot write into {kept.folder}")
            rows.append(_row(volumes, "yes" if written else "no: the one that is there covers more"))
    except RecordingError as error:
        raise Failed(str(error)) from None
    _print(rows, "The recordings hold no bars")


def _row(volumes: DayVolumes, kept: str) -> tuple[str, ...]:
    return (
        volumes.day.isoformat(),
        f"{len(volumes.symbols):,}",
        f"{volumes.covered} of {volumes.slots}",
        "yes" if volumes.complete else "no",
        kept,
    )


def _print(rows: _Rows, nothing: str) -> None:
    if not rows:
        click.echo(nothing)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)
