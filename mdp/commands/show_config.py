"""`mdp config`: the effective configuration and where each value came from, without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mdp import plugins
from mdp.commands.common import Refused
from mdp.config import Config, masked_value
from mdp.config_load import KEYS, Loaded, value_of


def rows(loaded: Loaded) -> Iterator[tuple[str, Any, str]]:
    """Key, masked value and source of every setting, in the order of the structs."""
    for key in KEYS:
        yield key, masked_value(key.partition(".")[2], value_of(loaded.config, key)), loaded.sources[key]


def as_text(loaded: Loaded) -> str:
    """The configuration as TOML, the source of each value in a comment."""
    lines: list[str] = []
    section = ""
    for key, value, source in rows(loaded):
        name, _, field = key.partition(".")
        if name != section:
            lines += ["", f"[{name}]"] if lines else [f"[{name}]"]
            section = name
        lines.append(f"{field} = {_toml(value)}  # {source}")
    return "\n".join(lines)


def load_parts(config: Config) -> None:
    """Load the analyzers and scanners that the configuration names, as `mdp run` would.

    Raises:
        Refused: One of them is not there, or does not load.
    """
    from mdp.analyzers.base import Analyzer
    from mdp.scanner.base import Scanner

    try:
        for name in config.processor.analyzers:
            plugins.load("mdp.analyzers", name, Analyzer, key="processor.analyzers")
        for name in config.processor.scanners:
            plugins.load("mdp.scanners", name, Scanner, key="processor.scanners")
    except plugins.PluginError as error:
        raise Refused(str(error)) from None


def print_table(loaded: Loaded) -> None:
    """Print the configuration as a table, changed values standing out."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Effective configuration", title_justify="left")
    for heading in ("setting", "value", "source"):
        table.add_column(heading, overflow="fold")
    section = ""
    for key, value, source in rows(loaded):
        if section and key.partition(".")[0] != section:
            table.add_section()
        section = key.partition(".")[0]
        style = "dim" if source == "default" else "bold"
        table.add_row(Text(key), Text(_toml(value), style=style), Text(source, style=style))
    Console().print(table)


def _toml(value: Any) -> str:
    # JSON's texts, numbers, booleans and lists of texts are TOML's, too, if letters stay as they are.
    return json.dumps(value, ensure_ascii=False)
