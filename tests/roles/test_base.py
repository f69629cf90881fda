"""The life of a process: order, bounds, and what it says of itself."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mdp.config import AdminConfig, Config, MetricsConfig
from mdp.roles.base import Process, StartError
from mdp.roles.controls import RoleControls
from mdp.stage import Health, Stage
from tests.app_support import request


class Part:
    """A stage that notes what happens to it."""

    def __init__(self, name: str, notes: list[str], **faults: Any) -> None:
        self.name = name
        self._notes = notes
        self._faults = faults
        self.healthy = True

    async def start(self) -> None:
        """Start, or raise what was asked for."""
        if "start" in self._faults:
            raise self._faults["start"]
        self._notes.append(f"start {self.name}")

    async def stop(self) -> None:
        """Stop, or hang, or raise."""
        if "hang" in self._faults:
            await asyncio.Event().wait()
        self._notes.append(f"stop {self.name}")
        if "stop" in self._faults:
            raise self._faults["stop"]

    def health(self) -> Health:
        """As told."""
        return Health(self.healthy, "as told")


class Made(Process):
    """A process of given parts."""

    def __init__(self, *parts: Stage, vital: Stage | None = None) -> None:
        config = Config(metrics=MetricsConfig(port=0), admin=AdminConfig(port=0))
        super().__init__(config, ["wds"], RoleControls(tuple, lambda: self.ports()))
        self._parts = parts
        self._vital = vital
        self.finished: list[float] = []

    def parts(self) -> Iterator[Stage]:
        yield from self._parts

    def vital(self) -> Iterator[Stage]:
        yield from super().vital()
        if self._vital is not None:
            yield self._vital

    async def finish(self, seconds: float) -> None:
        self.finished.append(seconds)


async def test_stages_start_in_order_and_stop_in_the_reverse() -> None:
    """Consumers outlive producers; probes answer before the first part and after the last."""
    notes: list[str] = []
    made = Made(Part("a", notes), Part("b", notes))
    assert [health.ok for _, health in made.ready()] == [False] * 5
    await made.start()
    try:
        assert (await request("GET", made.metrics_server.port, "/readyz"))[0] == 200
        assert [name for name, _ in made.ready()] == ["loop_lag", "metrics", "admin", "a", "b"]
    finally:
        await made.stop()
    assert notes == ["start a", "start b", "stop b", "stop a"]
    await made.stop()
    assert len(notes) == 4, "stopping twice is stopping"
    assert made.metrics_server.port == 0


@pytest.mark.parametrize(
    ("fault", "reason", "code"),
    [
        (OSError(98, "address already in use"), "b: address already in use", 1),
        (StartError("a setting is wrong", exit_code=2), "a setting is wrong", 2),
    ],
)
async def test_a_stage_that_cannot_start_ends_the_others(fault: Exception, reason: str, code: int) -> None:
    """One line says why; nothing is left running."""
    notes: list[str] = []
    made = Made(Part("a", notes), Part("b", notes, start=fault), Part("c", notes))
    with pytest.raises(StartError, match=f"^{reason}$") as refused:
        await made.start()
    assert refused.value.exit_code == code
    assert notes == ["start a", "stop a"]
    assert made.finished


async def test_a_stage_that_hangs_or_fails_does_not_keep_the_others_from_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them share a bound of time; whoever comes after it still has a moment."""
    monkeypatch.setattr("mdp.roles.base._STOP_SECONDS", 0.1)
    notes: list[str] = []
    made = Made(
        Part("a", notes), Part("b", notes, hang=True), Part("c", notes, stop=RuntimeError("a defect"))
    )
    await made.start()
    await made.stop()
    assert notes[-2:] == ["stop c", "stop a"]
    assert 0 < made.finished[0] <= 0.1


async def test_whatever_hangs_the_process_ends_within_the_two_seconds_promised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that goes on only where a stage is waited for, until its time is over."""
    now = 1_000.0

    async def gives_up(stopping: Coroutine[Any, Any, None], timeout: float) -> None:
        nonlocal now
        stopping.close()
        now += timeout
        raise TimeoutError

    made = Made(*[Part(str(number), [], hang=True) for number in range(20)])
    await made.start()
    try:
        with monkeypatch.context() as patch:
            patch.setattr("mdp.roles.base.time", SimpleNamespace(monotonic=lambda: now))
            patch.setattr(
                "mdp.roles.base.asyncio",
                SimpleNamespace(wait_for=gives_up),
            )
            started = list(made._started)
            await made.stop()
    finally:
        for stage in started:
            if not isinstance(stage, Part):
                await stage.stop()
    assert now - 1_000.0 + made.finished[0] <= 2.0 + 1e-6
    assert now - 1_000.0 >= 1.8, "the first may take all of it"


async def test_the_process_lives_as_its_vital_parts_do() -> None:
    """Others only make it unready: a restart would not help them."""
    notes: list[str] = []
    vital, other = Part("vital", notes), Part("other", notes)
    made = Made(vital, other, vital=vital)
    vital.healthy = False
    assert made.live().ok, "not before it has started"
    await made.start()
    try:
        assert made.live() == Health(False, "vital: as told")
        vital.healthy, other.healthy = True, False
        assert made.live().ok
        assert dict(made.ready())["other"] == Health(False, "as told")
        assert (await request("GET", made.metrics_server.port, "/readyz"))[0] == 503
    finally:
        await made.stop()
