"""The control API of a process with some roles: who is asked what."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mdp.admin.controls import NotHereError
from mdp.roles.controls import RoleControls
from mdp.roles.parts import Role


class Knows:
    """A role that answers as it was told."""

    def __init__(self, name: str, controls: Any = None) -> None:
        self.name = name
        self.controls = controls

    def status(self) -> dict[str, Any]:
        """Its part."""
        return {"name": self.name}


class Listening:
    """As a listener answers."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def gaps(self) -> list[dict[str, Any]]:
        return [{"gap": 1}]

    def queues(self) -> dict[str, Any]:
        return {"sent": 1}

    async def feed_start(self) -> None:
        self.asked.append("start")

    async def feed_stop(self) -> None:
        self.asked.append("stop")

    async def feed_restart(self) -> None:
        self.asked.append("restart")

    async def feed_configure(self, *settings: Any) -> None:
        self.asked.append(settings)

    async def record_start(self, path: str) -> None:
        self.asked.append(path)

    async def record_stop(self) -> None:
        raise ValueError("no recording runs")


class Processing:
    """As a processor answers."""

    def queues(self) -> dict[str, Any]:
        return {"read": 2}

    def analyzers(self) -> list[dict[str, Any]]:
        return [{"name": "one"}]

    async def explain(self, symbol: str) -> dict[str, Any]:
        return {"symbol": symbol}


def controls(*roles: Knows) -> RoleControls:
    """Of a process with these roles."""
    return RoleControls(lambda: cast("tuple[Role, ...]", roles), lambda: {"admin": 1})


async def test_each_question_goes_to_the_role_that_can_answer_it() -> None:
    """And its answer comes back, refusals included."""
    listening = Listening()
    asked = controls(Knows("scp"), Knows("processor", Processing()), Knows("listener", listening))
    assert asked.gaps() == [{"gap": 1}]
    assert asked.analyzers() == [{"name": "one"}]
    assert await asked.explain("A") == {"symbol": "A"}
    assert asked.queues() == {"processor": {"read": 2}, "listener": {"sent": 1}}
    await asked.feed_start()
    await asked.feed_stop()
    await asked.feed_restart()
    await asked.feed_configure(None, "stocks", None)
    await asked.record_start("x")
    assert listening.asked == ["start", "stop", "restart", (None, "stocks", None), "x"]
    with pytest.raises(ValueError, match="no recording runs"):
        await asked.record_stop()
    status = asked.status()
    assert (status["roles"], status["ports"]) == (["scp", "processor", "listener"], {"admin": 1})
    assert status["listener"] == {"name": "listener"}


async def test_what_no_role_here_knows_is_another_processs() -> None:
    """The message names who to ask."""
    asked = controls(Knows("wds"), Knows("processor", Processing()))
    assert asked.queues() == {"read": 2}
    with pytest.raises(NotHereError, match=r"this process is --role wds,processor; .* --role listener"):
        await asked.feed_stop()
    with pytest.raises(NotHereError, match="--role processor"):
        await controls(Knows("wds")).explain("A")
