"""Logs: one chain for ours and the libraries', and no secret in any of it."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import structlog

from mdp.config import MASK, LogConfig
from mdp.observability import logging as mdp_logging
from mdp.observability.logging import SecretMask, add_secret, configure

SECRET = "s3cret-S3CRET"


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process's logging is as before after each test, and no secret of one is known to the next."""
    monkeypatch.setattr(mdp_logging, "_mask", SecretMask())
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    structlog.reset_defaults()


def logged(config: LogConfig, *secrets: str, stream: io.StringIO | None = None) -> io.StringIO:
    """Where a newly configured process logs to."""
    stream = stream or io.StringIO()
    configure(config, secrets, stream)
    return stream


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    """The JSON lines of a stream."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def test_elsewhere_than_on_a_terminal_lines_are_json() -> None:
    """Event, level, logger and a UTC time, plus what was given."""
    stream = logged(LogConfig())
    structlog.get_logger("mdp.wds").warning("client_closed", reason="slow", queued_bytes=5)
    [entry] = entries(stream)
    assert list(entry)[:4] == ["timestamp", "level", "event", "logger"]
    time = datetime.fromisoformat(entry.pop("timestamp"))
    assert time.utcoffset() == timedelta(0)
    assert entry == {
        "event": "client_closed", "level": "warning", "logger": "mdp.wds",
        "reason": "slow", "queued_bytes": 5,
    }  # fmt: skip


def test_on_a_terminal_lines_are_for_people() -> None:
    """And colours only there; the format can be forced either way."""
    for config, stream, is_json, has_colours in [
        (LogConfig(), Terminal(), False, True),
        (LogConfig(format="json"), Terminal(), True, False),
        (LogConfig(format="console"), io.StringIO(), False, False),
    ]:
        logged(config, stream=stream)
        structlog.get_logger("mdp").info("started", port=1)
        text = stream.getvalue()
        assert text.startswith("{") is is_json
        assert ("\x1b[" in text) is has_colours
        assert "started" in text


def test_the_level_is_a_threshold_for_everybody() -> None:
    """Ours and the standard library's."""
    stream = logged(LogConfig(level="error"))
    structlog.get_logger("mdp").warning("no")
    logging.getLogger("some.library").warning("no")
    structlog.get_logger("mdp").error("ours")
    logging.getLogger("some.library").error("theirs %s", 1)
    assert [entry["event"] for entry in entries(stream)] == ["ours", "theirs 1"]


@pytest.mark.parametrize("name", ["websockets.client", "websockets.server", "aiohttp.access", "urllib3.pool"])
def test_libraries_do_not_log_per_connection_or_frame(name: str) -> None:
    """Even at debug: websockets would show the frames, the one with the key included."""
    stream = logged(LogConfig(level="debug"))
    logging.getLogger(name).debug("> TEXT")
    logging.getLogger(name).info("connection open")
    logging.getLogger(name).error("failed")
    assert [entry["event"] for entry in entries(stream)] == ["failed"]


def test_configuring_again_replaces_the_first() -> None:
    """No line comes twice."""
    first = logged(LogConfig())
    second = logged(LogConfig())
    structlog.get_logger("mdp").info("once")
    logging.getLogger("library").warning("once")
    assert first.getvalue() == ""
    assert len(entries(second)) == 2


def test_the_official_package_logs_through_the_chain_only(capsys: pytest.CaptureFixture[str]) -> None:
    """It gives its logger a handler on standard output; that stays silent, also when it is imported later."""
    stream = logged(LogConfig(), SECRET)
    logger = logging.getLogger("RESTClient")
    own = logging.StreamHandler(sys.stdout)
    logger.addHandler(own)
    try:
        logger.warning("bad key %s", SECRET)
    finally:
        logger.removeHandler(own)
    assert capsys.readouterr().out == ""
    assert [entry["event"] for entry in entries(stream)] == [f"bad key {MASK}"]


@pytest.mark.parametrize("kind", ["json", "console"])
def test_no_secret_is_logged_wherever_it_hides(kind: str) -> None:
    """Values, nested ones, keys, bytes, objects, exceptions, library messages, warnings."""

    class Holder:
        def __repr__(self) -> str:
            return f"Holder({SECRET})"

    stream = logged(LogConfig(format=kind), SECRET, "", "abc")
    log = structlog.get_logger("mdp")
    log.info(f"event {SECRET}", url=f"wss://x?key={SECRET}", whole=SECRET, raw=SECRET.encode(), short="abc")
    log.info(
        "nested", value={"a": [SECRET, {SECRET: (Holder(),)}], "b": {SECRET}}, count=3, none=None, yes=True
    )
    try:
        raise ValueError(f"bad {SECRET}")
    except ValueError:
        log.exception("failed")
        logging.getLogger("library").exception("failed %s", Holder())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"old {SECRET}", stacklevel=1)
    text = stream.getvalue()
    assert SECRET not in text
    assert "ValueError: bad ********" in text
    assert text.count(MASK) >= 10
    if kind == "json":
        nested = entries(stream)[1]
        assert (nested["count"], nested["none"], nested["yes"]) == (3, None, True)
        assert entries(stream)[0]["short"] == MASK


def test_a_short_secret_is_masked_as_a_whole_value_only() -> None:
    """As a part it would match everything and make logs unreadable."""
    mask = SecretMask(["ab"])
    assert mask.text("ab") == MASK
    assert mask.text("cable") == "cable"


def test_a_secret_inside_a_longer_one_leaves_no_rest() -> None:
    """The longer is replaced first."""
    assert SecretMask(["secret", "secret-and-more"]).text("x secret-and-more secret") == f"x {MASK} {MASK}"


def test_a_secret_that_comes_later_is_masked_from_then_on() -> None:
    """A key given at run time is as safe as one of the configuration."""
    stream = logged(LogConfig())
    add_secret(SECRET)
    structlog.get_logger("mdp").info("x", key=SECRET)
    assert entries(stream)[0]["key"] == MASK
