"""What tests of several packages share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.redis_server import RedisServer

#: Each of these waits long for processes of its own, or works long. Begun last, one would run on alone.
_FIRST = (
    "tests/integration/",
    "tests/bench/",
    "tests/test_run.py",
    "tests/wds/test_fuzz.py",
    "tests/wds/test_random_joins.py",
)

# How long an example takes on a machine that runs other tests beside says nothing about the code.
settings.register_profile("mdp", settings.default, deadline=None)
settings.load_profile("mdp")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where tests run side by side (`pytest -n`), the longest files come first."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(_FIRST))


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs where no config.toml is, and what it writes is its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def redis_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One redis-server for all tests of a session. Use `redis_server`."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """A real redis-server that runs and is empty; the test may kill, freeze or fill it."""
    redis_process.empty()
    return redis_process
