"""Logs: structlog and the standard library's loggers through one chain, to standard error.

Console lines on a terminal, one JSON object a line elsewhere. No secret that is known here ever
reaches an output, whatever value, exception or library message it hides in.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from mdp.config import MASK, LogConfig

# Shorter ones are masked only where they are a whole value: as a part they would match anything.
_LEAST_SECRET_PART = 4

# Loggers of libraries -> least level. Below it they log a line per connection, request or frame;
# websockets at debug would even show the provider's key.
_LIBRARY_LEVELS: dict[str, int] = {
    "websockets": logging.WARNING,
    "aiohttp.access": logging.WARNING,
    "aiohttp.websocket": logging.ERROR,  # warns of each client who offers a subprotocol of others
    "aiohttp": logging.INFO,
    "asyncio": logging.WARNING,
    "massive": logging.WARNING,
    "WebSocketClient": logging.WARNING,
    "RESTClient": logging.WARNING,
    "urllib3": logging.WARNING,
}

# The massive package logs by this name too and gives it a handler of its own, on standard output,
# whenever it is imported. Its entries are handed to the root's handlers instead. (Its WebSocket client's
# logger is silenced for good by the listener: it repeats what the server says.)
_DIVERTED = ("RESTClient",)


class _ToRoot(logging.Filter):
    """Hands a record to the root logger and keeps it from the logger's own handlers."""

    def filter(self, record: logging.LogRecord) -> bool:
        logging.getLogger().handle(record)
        return False


class SecretMask:
    """A structlog processor that replaces known secrets in every value of an entry."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._whole: set[str] = set()
        self._parts: list[str] = []
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """Mask `secret` from now on; an empty one is ignored."""
        if secret and secret not in self._whole:
            self._whole.add(secret)
            if len(secret) >= _LEAST_SECRET_PART:
                self._parts.append(secret)
                self._parts.sort(key=len, reverse=True)  # a secret may be part of a longer one

    def text(self, value: str) -> str:
        """`value` without secrets."""
        if value in self._whole:
            return MASK
        for secret in self._parts:
            if secret in value:
                value = value.replace(secret, MASK)
        return value

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """Mask an entry in place, as structlog calls it."""
        for key, value in event.items():
            # The machinery's own keys hold objects that later steps need as they are.
            if not key.startswith("_"):
                event[key] = self._masked(value)
        return event

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {self.text(str(key)): self._masked(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._masked(item) for item in value]
        return self.text(value.decode("utf-8", "replace") if isinstance(value, bytes) else repr(value))


_mask = SecretMask()


def add_secret(secret: str) -> None:
    """Mask a secret that became known after `configure`, in every later line."""
    _mask.add(secret)


def configure(config: LogConfig, secrets: Iterable[str] = (), stream: TextIO | None = None) -> None:
    """Set up logging for the process; a second call replaces the first.

    Args:
        config: Level and format; an empty format is console on a terminal and JSON elsewhere.
        secrets: What must never be logged, see `mdp.config.secrets_of`.
        stream: Where lines go; standard error unless given.
    """
    stream = stream if stream is not None else sys.stderr
    for secret in secrets:
        _mask.add(secret)
    level = logging.getLevelNamesMapping()[config.level.upper()]
    terminal = stream.isatty()
    as_json = config.format == "json" or (not config.format and not terminal)

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,  # a test or a later call may configure again
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.StackInfoRenderer(),
                structlog.processors.format_exc_info,  # before the mask: tracebacks may quote a secret
                _mask,
                _in_order,
                structlog.processors.JSONRenderer() if as_json else _console_renderer(terminal),
            ],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name, least in _LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(level, least))
    for name in _DIVERTED:
        logger = logging.getLogger(name)
        if not any(isinstance(known, _ToRoot) for known in logger.filters):
            logger.addFilter(_ToRoot())
    logging.captureWarnings(True)


def _in_order(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """When, how bad and what first: that is how lines are read."""
    first = {key: event.pop(key) for key in ("timestamp", "level", "event", "logger") if key in event}
    return {**first, **event}


def _console_renderer(terminal: bool) -> Processor:
    # Plain tracebacks: the pretty ones show local variables, and those may hold secrets.
    return structlog.dev.ConsoleRenderer(
        colors=terminal, exception_formatter=structlog.dev.plain_traceback, pad_event_to=24
    )
