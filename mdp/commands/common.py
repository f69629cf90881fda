"""What the commands share: how they fail, and the options that set the configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import click

from mdp.config import SECRET_KEYS, ConfigError
from mdp.config_load import KEYS, Loaded, flag_of, load

_SHOWN_SETTINGS = {  # the options that `--help` lists; the rest of the settings work the same way
    "processor.workers": "Processes of --role processor; also --workers.",
    "processor.partitions": 'Partitions of --role processor, such as "0-7"; also --partitions.',
    "wds.port": "Port of the WebSocket service for clients.",
    "scp.port": "Port of the page.",
    "metrics.port": "Port of /metrics, /healthz and /readyz.",
    "admin.port": "Port of the control API.",
    "log.level": "debug, info, warning, error or critical.",
    "log.format": "json or console.",
}


_SHORT = {"processor.workers": ("--workers",), "processor.partitions": ("--partitions",)}


class Refused(click.ClickException):
    """Nothing was started, because of what the user gave: one line, exit code 2."""

    exit_code = 2


class Failed(click.ClickException):
    """It was tried and did not work: one line, exit code 1."""


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--config FILE`, as the command's keyword `config_path`."""
    return click.option(
        "--config",
        "config_path",
        metavar="FILE",
        help="Configuration file  [default: $MDP_CONFIG, else ./config.toml if it is there]",
    )(command)


def setting_options(command: Callable[..., Any]) -> Callable[..., Any]:
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
            *_SHORT.get(key, ()),
            f"setting_{key.replace('.', '_')}",
            metavar="VALUE",
            hidden=key in hidden,
            help=_SHOWN_SETTINGS.get(key),
        )(decorated)
    return decorated


def load_or_refuse(config_path: str | None, flags: Mapping[str, object] | None = None) -> Loaded:
    """The configuration from all sources; a wrong one ends the command with exit code 2."""
    try:
        return load(config_path, os.environ, flags)
    except ConfigError as error:
        raise Refused(str(error)) from None
