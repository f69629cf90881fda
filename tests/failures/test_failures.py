"""The failure matrix as tests: whoever dies, clients see nothing twice, nothing go back, no false high."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.failures.cases import CASES, Case
from tests.failures.cluster import PARTITIONS, Cluster, faketime_library
from tests.failures.stage import Stage, staged
from tests.waiting import eventually

#: Longer than a processor's leases (3 s), so that another one has them.
_PAST_LEASES_SECONDS = 4.0
_UNDER_WAY_EVENTS = 1_200  # two seconds' worth: a Redis that is killed may hold so much on a busy machine


async def _one_after_the_other(stage: Stage) -> None:
    """A processor is frozen past its leases and wakes up, Redis comes back empty, a processor is killed."""
    cluster = stage.cluster
    publisher = await cluster.publisher()
    other = next(role for role in cluster.of("processor") if role is not publisher)
    other.signal(signal.SIGSTOP)
    await asyncio.sleep(_PAST_LEASES_SECONDS)
    other.signal(signal.SIGCONT)
    await cluster.settled()
    await asyncio.to_thread(cluster.redis.restart)
    stage.back()
    await cluster.settled()
    await eventually(lambda: _checkpoints(cluster) == PARTITIONS)  # before that the state has no other place
    publisher.signal(signal.SIGKILL)
    await publisher.gone()
    await asyncio.sleep(_PAST_LEASES_SECONDS)


def _checkpoints(cluster: Cluster) -> int:
    with cluster.redis.client() as client:
        return len(client.keys("mdp:checkpoint:*"))


async def test_the_worst_in_short(tmp_path: Path) -> None:
    """Three cases of the matrix, few processes: nothing twice, nothing back, no false high, all counted."""
    # The lease is gone with what Redis held: the listener takes another one, and connects again.
    # What was in Redis and nobody had read yet is gone with it, too: that is a few events, if any.
    case = Case(name="in short", act=_one_after_the_other, kind="small", exact=False, connections=1)
    async with staged(tmp_path, case.kind) as stage:
        outcome = await stage.play(case.name, case.act, heals=False)
    assert case.problems(outcome) == [], outcome
    assert outcome.alerts > 0
    assert outcome.unknown <= _UNDER_WAY_EVENTS


KINDS = list(dict.fromkeys(case.kind for case in CASES.values()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_the_matrix(kind: str, tmp_path: Path) -> None:
    """Every case of a kind, one after the other on the same processes."""
    if kind == "skewed" and not faketime_library():
        pytest.skip("needs libfaketime (Debian: faketime)")
    problems: dict[str, list[str]] = {}
    async with staged(tmp_path, kind) as stage:
        for case in CASES.values():
            if case.kind == kind and (found := case.problems(await stage.play(case.name, case.act))):
                problems[case.name] = found
    assert problems == {}
