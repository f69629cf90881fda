"""Reads the configuration from its four sources and refuses what cannot work.

Precedence: defaults < config.toml < environment < flags. Each failure is a `ConfigError` of one
line: where, which key, what was found, what is allowed. Nothing is started before this passes.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from mdp.config import SECRET_KEYS, URL_KEYS, Config, ConfigError, Section, masked_value
from mdp.config_rules import RULES, Problem, is_clean_text, port_problems, problems

DEFAULT = "default"
DEFAULT_FILE = "config.toml"
MAX_FILE_BYTES = 1 << 20
MAX_KEY_FILE_BYTES = 4_096
PROVIDER_KEY_VARIABLES = ("MASSIVE_API_KEY", "POLYGON_API_KEY")  # in this order, after massive.api_key

# Variables of ours that are no setting: the path of the file, the key of `mdp watch` and `mdp get`,
# and the keys that the simulator accepts.
OTHER_VARIABLES = frozenset({"MDP_CONFIG", "MDP_API_KEY", "MDP_SIMULATOR_API_KEYS"})
# Kubernetes describes each service of a namespace in variables; a service named mdp-wds makes
# MDP_WDS_SERVICE_HOST and its like. They are nobody's settings and no reason to refuse a start.
_KUBERNETES = re.compile(r"MDP_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)")

_TYPE_WORDS: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list[str]: 'a list of texts such as ["a", "b"]',
}


def _fields() -> dict[str, dict[str, Any]]:
    """Section -> key -> type, as the structs say."""
    return {name: get_type_hints(section) for name, section in get_type_hints(Config).items()}


SECTIONS = _fields()
KEYS: dict[str, Any] = {
    f"{section}.{key}": t for section, keys in SECTIONS.items() for key, t in keys.items()
}
VARIABLES: dict[str, str] = {"MDP_" + key.replace(".", "_").upper(): key for key in KEYS}


class Loaded(msgspec.Struct, frozen=True):
    """The effective configuration and where each value came from."""

    config: Config
    sources: dict[str, str]  # "wds.port" -> "default", "config.toml:12", "MDP_WDS_PORT" or "--wds-port"
    warnings: list[str]  # one line each, for the log, without secrets
    path: str | None  # of the file that was read


def flag_of(key: str) -> str:
    """The command line option of a key: `wds.port` is `--wds-port`."""
    return "--" + key.replace(".", "-").replace("_", "-")


def load(path: str | None, environ: Mapping[str, str], flags: Mapping[str, object] | None = None) -> Loaded:
    """Read and check the configuration.

    Args:
        path: The file to read; None: `MDP_CONFIG` if set, else `./config.toml` if it is there.
        environ: Environment variables, usually `os.environ`.
        flags: Values by key (`"wds.port"`), typed or as the text of the command line. None values
            count as not given.

    Raises:
        ConfigError: Anything that the program must not start with.
    """
    loader = _Loader()
    path = path or environ.get("MDP_CONFIG") or None
    if path is None and Path(DEFAULT_FILE).exists():
        path = DEFAULT_FILE
    if path is not None:
        loader.read_file(path)
    loader.read_environment(environ)
    for key, value in (flags or {}).items():
        if value is not None:
            loader.set(key, value, flag_of(key), textual=isinstance(value, str))
    loader.find_provider_key(environ)
    loader.raise_first(problems(loader.config))
    return Loaded(loader.config, loader.sources, loader.warnings, path)


def check_for_run(loaded: Loaded, *, needs_provider_key: bool) -> None:
    """What a process that is about to start needs on top of a right configuration.

    Raises:
        ConfigError: No provider's key where one is needed, or two servers on one port.
    """
    config = loaded.config
    _raise_first(port_problems(config), loaded.sources)
    if needs_provider_key and not config.massive.api_key:
        where = f"{loaded.path}, environment" if loaded.path else "environment"
        raise ConfigError(
            f"{where}: massive.api_key: found nothing; allowed: your Massive.com key in MASSIVE_API_KEY, "
            "POLYGON_API_KEY, massive.api_key or the file that massive.api_key_file names "
            "(no key? try --role all --demo)"
        )


class _Loader:
    """Applies one source after the other to a configuration of defaults."""

    def __init__(self) -> None:
        self.config = Config()
        self.sources = dict.fromkeys(KEYS, DEFAULT)
        self.warnings: list[str] = []

    def read_file(self, path: str) -> None:
        """Apply a TOML file."""
        text = _read_text(path, _one_line(path), MAX_FILE_BYTES)
        path = _one_line(path)  # from here on it is only shown
        for section, table in _parse(path, text).items():
            is_table = isinstance(table, dict)
            place = _place(path, text, section, None) if is_table else _place(path, text, "", section)
            if section not in SECTIONS:
                raise ConfigError(f"{place}: {_unknown(section)}")
            if not is_table:
                raise ConfigError(
                    f"{place}: {section}: found {_show(section, table)}; "
                    f"allowed: a table, written as [{section}] with the keys below it"
                )
            for key, value in table.items():
                self.set(f"{section}.{key}", value, _place(path, text, section, key))

    def read_environment(self, environ: Mapping[str, str]) -> None:
        """Apply every `MDP_<SECTION>_<KEY>`."""
        for name in sorted(environ):
            if not name.startswith("MDP_") or name in OTHER_VARIABLES or _KUBERNETES.fullmatch(name):
                continue
            if environ[name].startswith("tcp://"):
                self.warnings.append(
                    f"{name} is ignored: its value starts with tcp:// and looks injected by Kubernetes"
                )
                continue
            key = VARIABLES.get(name)
            if key is None:
                near = difflib.get_close_matches(name, VARIABLES, n=1, cutoff=0)
                raise ConfigError(
                    f"environment: unknown variable {_quote(name)}; did you mean {near[0]}? "
                    "allowed: MDP_<SECTION>_<KEY> for the keys of config.toml"
                )
            self.set(key, environ[name], name, textual=True)

    def set(self, key: str, value: object, source: str, *, textual: bool = False) -> None:
        """Check one value and make it effective; `textual` ones are parsed by the key's type first."""
        if key not in KEYS:
            raise ConfigError(f"{source}: {_unknown(key)}")
        typed = self._typed(key, value, source, textual=textual)
        section, _, field = key.partition(".")
        setattr(getattr(self.config, section), field, typed)
        self.sources[key] = source

    def find_provider_key(self, environ: Mapping[str, str]) -> None:
        """Complete `massive.api_key` from the provider's own variables or a file of its own."""
        massive = self.config.massive
        if massive.api_key:
            return
        for name in PROVIDER_KEY_VARIABLES:
            if environ.get(name):
                self.set("massive.api_key", environ[name].strip(), name)
                return
        if massive.api_key_file:
            source = self.sources["massive.api_key_file"]
            where = f"{source}: massive.api_key_file: {_one_line(massive.api_key_file)}"
            key = _read_text(massive.api_key_file, where, MAX_KEY_FILE_BYTES).strip()
            if not key:
                raise ConfigError(f"{where}: found an empty file; allowed: a file that holds the key")
            self.set("massive.api_key", key, massive.api_key_file)

    def raise_first(self, found: Iterable[Problem]) -> None:
        """Raise the first of the problems, if there is one."""
        _raise_first(found, self.sources)

    def _typed(self, key: str, value: object, source: str, *, textual: bool) -> object:
        kind = KEYS[key]
        rule = RULES.get(key)
        allowed = rule.allowed if rule else _TYPE_WORDS[kind]
        failure = ConfigError(f"{source}: {key}: found {_show(key, value)}; allowed: {allowed}")
        try:
            typed = msgspec.convert(_parse_text(value, kind) if textual else value, kind)
        except (ValueError, RecursionError):  # msgspec.ValidationError is a ValueError
            raise failure from None
        if key in ("log.level", "log.format"):
            typed = typed.lower()
        texts = typed if isinstance(typed, list) else [typed]
        if not all(is_clean_text(text) for text in texts if isinstance(text, str)):
            raise failure
        if rule and not rule.passes(typed):
            raise failure
        return typed


def _parse_text(value: object, kind: Any) -> object:
    """The value that a text of the environment or the command line stands for; ValueError if none."""
    text = str(value)
    if kind is str:
        return text
    text = text.strip()
    if kind is bool:
        truth = {"true": True, "1": True, "false": False, "0": False}
        return truth.get(text.lower(), text)  # anything else fails as the text it is
    if kind is int:
        return int(text)
    if kind is float:
        return float(text)
    return json.loads(text)


def _raise_first(found: Iterable[Problem], sources: Mapping[str, str]) -> None:
    for problem in found:
        raise ConfigError(
            f"{sources[problem.key]}: {problem.key}: found {problem.found}; allowed: {problem.allowed}"
        )


def _read_text(path: str, where: str, limit: int) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise ConfigError(f"{where}: found more than {limit} bytes; allowed: at most {limit}")
        return content.decode("utf-8-sig")
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 at byte {error.start}"
    except ValueError as error:  # a NUL in the path
        reason = str(error)
    raise ConfigError(f"{where}: found {reason}; allowed: a text file that this user can read")


def _parse(path: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        reason = "tables nested too deeply" if isinstance(error, RecursionError) else str(error)
        line = re.search(r"line (\d+)", reason)
        place = f"{path}:{line[1]}" if line else path
        raise ConfigError(
            f"{place}: found text that is not TOML: {_one_line(reason)}; allowed: TOML"
        ) from None


def _place(path: str, text: str, section: str, key: str | None) -> str:
    """`path:line` of a key (or of a section's header), just `path` where the line is not certain."""
    current = ""
    lines: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$", line):
            current = header[1].strip("\"'")
            if key is None and current.split(".")[0] == section:
                lines.append(number)
        elif key is not None and current == section:
            name = re.match(r"\s*[\"']?([^\s\"'=]+)[\"']?\s*=", line)
            if name and name[1] == key:
                lines.append(number)
    return f"{path}:{lines[0]}" if len(lines) == 1 else path


def _unknown(name: str) -> str:
    """Words for an unknown section or key: what was probably meant, and what there is."""
    section, dot, field = name.partition(".")
    if dot and section in SECTIONS:
        near = [f"{section}.{key}" for key in difflib.get_close_matches(field, SECTIONS[section], n=1)]
        allowed = f"allowed in [{section}]: {', '.join(SECTIONS[section])}"
    else:
        near = difflib.get_close_matches(section, SECTIONS, n=1)
        allowed = f"allowed: {', '.join(SECTIONS)}"
    # A right key in a wrong section, or above all of them, is as frequent as a typing error.
    near = near or [key for key in KEYS if key.partition(".")[2] == (field or section)]
    hint = f"did you mean {near[0]}? " if near else ""
    return f"found the unknown {'key' if dot else 'section'} {_quote(name)}; {hint}{allowed}"


def _show(key: str, value: object) -> str:
    """`value` for an error message: one line, not long, never a secret."""
    if key in SECRET_KEYS:
        return f"{_type_word(value)} that is not shown, because it is secret"
    may_hide = any(mark in str(value) for mark in ("@", "password"))
    if key in URL_KEYS and may_hide and masked_value(key.partition(".")[2], value) == value:
        return "a text that is not shown, because it may hold a password"
    shown = masked_value(key.partition(".")[2], value)
    return f"{_quote(shown)} ({_type_word(value)})"


def _type_word(value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    words = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "a table"}
    return words.get(type(value), "a date or time")


def _quote(value: object) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = str(value)
    return _one_line(text)


def _one_line(text: str, limit: int = 100) -> str:
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= limit else clean[:limit] + "..."


def value_of(config: Config, key: str) -> Any:
    """The value behind `"section.key"`, unmasked."""
    section: Section = getattr(config, key.partition(".")[0])
    return getattr(section, key.partition(".")[2])
