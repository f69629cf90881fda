"""Leases against a real Redis: one owner at a time, epochs that never go back, no write by a late owner."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from mdp.cache.control import Control
from mdp.cache.keys import PUBLISHER, Keys
from mdp.cache.leases import FENCE, Lease, raise_fence
from mdp.cache.redis_link import connect
from mdp.cache.tasks import end
from tests.redis_server import RedisServer
from tests.waiting import eventually

KEYS = Keys("t:")
ROOT = Path(__file__).resolve().parents[2]


class Clock:
    """Seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def link(server: RedisServer, **changes: Any) -> AsyncIterator[Redis]:
    client = connect(server.config(**changes))
    try:
        yield client
    finally:
        await client.aclose()


def lease(client: Redis, owner: str, **settings: Any) -> Lease:
    return Lease(client, KEYS, PUBLISHER, owner, **settings)


def brief(client: Redis, owner: str, control: Control | None = None) -> Lease:
    """A lease as in production, ten times as quick."""
    return lease(
        client, owner, seconds=0.3, renew_seconds=0.1, margin_seconds=0.1, control=control
    )  # fmt: skip


async def test_only_one_owner_gets_it_and_the_other_learns_when_it_ends(redis_server: RedisServer) -> None:
    """Whoever comes second gets nothing, and knows the latest time at which it will be free."""
    async with link(redis_server) as client:
        first, second = lease(client, "a"), lease(client, "b")

        assert await first.acquire()
        assert not await second.acquire()

        assert first.valid()
        assert not second.valid()
        assert 0 < second.free_in_seconds <= 3
        with redis_server.client() as plain:
            assert plain.get("t:mdp:lease:{publisher}") == b"a"


async def test_each_acquisition_has_a_larger_epoch_also_by_the_same_owner(redis_server: RedisServer) -> None:
    """After a release, and where an owner takes again what it lost track of."""
    async with link(redis_server) as client:
        first, second = lease(client, "a"), lease(client, "b")
        epochs = []
        for one in (first, first, second):
            await first.release()
            assert await one.acquire()
            epochs.append(one.epoch)
        again = lease(client, "b")  # the answer to the first attempt was lost, perhaps
        assert await again.acquire()
        epochs.append(again.epoch)

        assert epochs == sorted(set(epochs))
        assert not await second.renew(), "its epoch is over, though the owner has the same name"


async def test_epochs_go_on_after_redis_lost_everything(redis_server: RedisServer) -> None:
    """Readers that remember the last epoch must not ignore the next owner for ever."""
    async with link(redis_server) as client:
        one = lease(client, "a")
        assert await one.acquire()
        before = one.epoch
        with redis_server.client() as plain:
            plain.flushall()

        assert not await one.renew()
        assert await one.acquire()

        assert one.epoch > before


async def test_an_epoch_ahead_of_the_servers_clock_is_still_followed_by_a_larger_one(
    redis_server: RedisServer,
) -> None:
    """The clock of another Redis, before a failover, may have been ahead."""
    async with link(redis_server) as client:
        with redis_server.client() as plain:
            plain.set("t:mdp:epoch:{publisher}", 9_000_000_000_000)
        one = lease(client, "a")

        assert await one.acquire()

        assert one.epoch == 9_000_000_000_001


async def test_it_is_invalid_before_redis_lets_it_go_and_counts_from_the_question(
    redis_server: RedisServer,
) -> None:
    """By our clock, from before the question was sent: Redis cannot have begun to count earlier."""
    clock = Clock()
    async with link(redis_server) as client:
        one = lease(client, "a", clock=clock)
        lost: list[str] = []
        one.on_lost.append(lost.append)
        assert await one.acquire()

        clock.now += 1.99
        assert one.valid()
        clock.now += 0.02
        assert not one.valid()
        assert one.left_seconds == 0
        one.look()

        assert lost == ["not renewed"]
        assert one.epoch == 0
        with redis_server.client() as plain:
            assert plain.pttl("t:mdp:lease:{publisher}") > 0


async def test_renewing_makes_it_last(redis_server: RedisServer) -> None:
    """Two seconds from the last renewal on."""
    clock = Clock()
    async with link(redis_server) as client:
        one = lease(client, "a", clock=clock)
        assert await one.acquire()
        for _ in range(5):
            clock.now += 1.5
            assert await one.renew()
            assert one.valid()


async def test_what_another_took_is_lost_at_the_next_renewal(redis_server: RedisServer) -> None:
    """Renewing never takes anything away from its new owner, nor does a late release."""
    async with link(redis_server) as client:
        late, owner = lease(client, "a"), lease(client, "b")
        lost: list[str] = []
        late.on_lost.append(lost.append)
        assert await late.acquire()
        with redis_server.client() as plain:
            plain.delete("t:mdp:lease:{publisher}")
        assert await owner.acquire()

        assert not await late.renew()
        await late.release()

        assert lost == ["taken"]
        assert await owner.renew()


async def test_a_release_says_so_and_the_next_owner_has_it_at_once(redis_server: RedisServer) -> None:
    """The hand-over waits for no timer: the lease of the test would last for another ten minutes."""
    async with link(redis_server) as client, link(redis_server) as other:
        controls = [Control(client, KEYS.control), Control(other, KEYS.control)]
        for control in controls:
            await control.start()
            await control.ready()
        settings: dict[str, Any] = {"seconds": 1_200, "renew_seconds": 300, "margin_seconds": 300}
        first = lease(client, "a", control=controls[0], **settings)
        second = lease(other, "b", control=controls[1], **settings)
        gained: list[int] = []
        second.on_gained.append(gained.append)
        await first.start()
        await eventually(first.valid)
        await second.start()
        await eventually(lambda: second.free_in_seconds > 0)

        await first.stop()
        await eventually(second.valid)

        assert gained == [second.epoch]
        await second.stop()
        for control in controls:
            await control.stop()


class Slow:
    """A client whose first answer is on its way until the test lets it come."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self.asked, self.answer = asyncio.Event(), asyncio.Event()

    async def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        found = await self._client.eval(script, numkeys, *keys_and_args)
        self.asked.set()
        await self.answer.wait()
        return found


async def test_a_release_outruns_the_answer_that_another_has_it(redis_server: RedisServer) -> None:
    """It comes over another connection; the old answer must not make us wait for the end of the lease."""
    async with link(redis_server) as client:
        slow = Slow(client)
        first, second = lease(client, "a"), Lease(slow, KEYS, PUBLISHER, "b")
        assert await first.acquire()
        asking = asyncio.create_task(second.acquire())
        await slow.asked.wait()
        await first.release()
        second.forget_owner()
        slow.answer.set()

        assert not await asking
        assert second.free_in_seconds == 0
        assert await second.acquire()


async def test_a_release_that_is_heard_during_a_look_is_followed_by_another_look(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a stage: no timer is waited for."""
    monkeypatch.setattr("mdp.cache.leases._TRY_SECONDS", 4_000.0)
    async with link(redis_server) as client:
        control, slow = Control(client, KEYS.control), Slow(client)
        first = lease(client, "a", seconds=1_200.0)
        second = Lease(slow, KEYS, PUBLISHER, "b", seconds=1_200.0, control=control)
        assert await first.acquire()
        await second.start()
        await slow.asked.wait()
        await first.release()
        second._heard(f"released {PUBLISHER}")
        slow.answer.set()

        await eventually(second.valid)
        await second.stop()


async def test_without_a_release_it_is_taken_when_it_has_run_out(redis_server: RedisServer) -> None:
    """A crashed owner says nothing; the other looks again when the lease ends."""
    async with link(redis_server) as client:
        crashed, second = brief(client, "a"), brief(client, "b")
        assert await crashed.acquire()
        await second.start()

        await eventually(second.valid)

        assert second.epoch > crashed.epoch
        await second.stop()


async def test_an_owner_that_redis_does_not_answer_stops_in_time_and_comes_back(
    redis_server: RedisServer,
) -> None:
    """It says that it lost the lease while Redis still keeps it, and gets it again afterwards."""
    async with link(redis_server, timeout_seconds=1.0) as client:
        one = brief(client, "a")
        lost: list[str] = []
        one.on_lost.append(lost.append)
        await one.start()
        await eventually(one.valid)
        epoch = one.epoch

        redis_server.freeze()
        await eventually(lambda: bool(lost))
        assert lost == ["not renewed"]
        assert not one.health().ok
        redis_server.thaw()

        await eventually(one.valid)
        assert one.epoch > epoch
        await one.stop()


async def test_two_candidates_are_never_valid_at_once(redis_server: RedisServer) -> None:
    """However often the owner changes: here each of them keeps being held up for longer than a lease."""
    async with link(redis_server) as client:
        both = [brief(client, "a"), brief(client, "b")]
        seen: list[tuple[bool, ...]] = []
        owners: list[str] = []
        for one in both:
            one.on_gained.append(lambda _epoch, one=one: owners.append(one.owner))  # type: ignore[misc]
            await one.start()
        until = time.monotonic() + 3
        while time.monotonic() < until and len(owners) < 4:
            await asyncio.sleep(0.005)
            seen.append(tuple(one.valid() for one in both))
            held = next((one for one in both if one.valid()), None)
            if held is not None and held.acquisitions and held._task is not None:
                await end(held._task)  # it hangs: no renewal, no release
                await eventually(lambda held=held: not held.valid())  # type: ignore[misc]
                other = both[held is both[0]]
                await eventually(other.valid)
                held._task = None
                held.look()
                await held.start()

        assert (True, True) not in seen
        assert len(owners) >= 3
        assert set(owners) == {"a", "b"}
        for one in both:
            await one.stop()


async def test_a_fence_refuses_lower_epochs_for_good(redis_server: RedisServer) -> None:
    """The highest epoch that was ever there counts, by field."""
    async with link(redis_server) as client:
        assert await raise_fence(client, "f", "3", 20)
        assert await raise_fence(client, "f", "3", 20)
        assert not await raise_fence(client, "f", "3", 19)
        assert await raise_fence(client, "f", "4", 1), "another partition's"
        assert await raise_fence(client, "f", "3", 1_790_000_000_000)
        assert not await raise_fence(client, "f", "3", 1_789_999_999_999)


_WRITER = textwrap.dedent(
    """
    import asyncio, sys
    from redis.asyncio import Redis
    from mdp.cache.keys import PUBLISHER, Keys
    from mdp.cache.leases import FENCE, Lease

    WRITE = FENCE + '''
    if refused(KEYS[2], 'x', ARGV[1]) then redis.call('INCR', KEYS[3]) return 0 end
    redis.call('RPUSH', KEYS[1], ARGV[2])
    return 1
    '''

    async def main(port, owner, heedless):
        client = Redis(port=port)
        one = Lease(client, Keys("t:"), PUBLISHER, owner, seconds=0.6, renew_seconds=0.2, margin_seconds=0.2)
        await one.start()
        last = 0
        while True:
            epoch = one.epoch if one.valid() else last if heedless else 0
            if epoch:
                last = epoch
                await client.eval(WRITE, 3, "written", "fence", "refused", str(epoch), f"{owner} {epoch}")
            await asyncio.sleep(0.005)

    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "heedless"))
    """
)


def writer(server: RedisServer, owner: str, kind: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(server.port), owner, kind],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.parametrize("kind", ["heedful", "heedless"])
async def test_a_process_frozen_past_its_lease_writes_nothing_afterwards(
    redis_server: RedisServer, kind: str
) -> None:
    """SIGSTOP past the lease, then SIGCONT: not one write beside the new owner's.

    A heedful writer asks `valid` before each write. A heedless one does not, as if it were frozen just
    between asking and writing: then the script refuses it.
    """
    with redis_server.client() as plain:
        frozen = writer(redis_server, "a", kind)
        successor: subprocess.Popen[bytes] | None = None
        try:
            await eventually(lambda: plain.llen("written") > 0)
            frozen.send_signal(signal.SIGSTOP)
            successor = writer(redis_server, "b", "heedful")
            await eventually(lambda: (plain.lindex("written", -1) or b"").startswith(b"b"))
            frozen.send_signal(signal.SIGCONT)
            if kind == "heedless":
                await eventually(lambda: int(plain.get("refused") or 0) >= 10)
            else:
                length = int(plain.llen("written"))
                await eventually(lambda: plain.llen("written") >= length + 50)
        finally:
            for process in (frozen, successor):
                if process is not None:
                    process.send_signal(signal.SIGCONT)
                    process.kill()
                    process.wait()
        written = [entry.decode().split() for entry in plain.lrange("written", 0, -1)]

    owners = [owner for owner, _ in written]
    assert owners == sorted(owners), "nothing of the first owner's after the second's first"
    assert set(owners) == {"a", "b"}
    epochs = [int(epoch) for _, epoch in written]
    assert epochs == sorted(epochs)
    assert FENCE  # used by the writers


async def test_a_lease_whose_epoch_is_refused_is_given_back_for_a_newer_one(
    redis_server: RedisServer,
) -> None:
    """Redis lost its epochs and its clock went back: what was written before must not shut us out."""
    async with link(redis_server) as client:
        one = brief(client, "a")
        await one.start()
        await eventually(lambda: one.epoch > 0)
        ahead = one.epoch + 300  # ms
        await client.hset("fence", one.name, ahead)
        while not await raise_fence(client, "fence", one.name, one.epoch or 1):
            one.refused()
            await eventually(lambda: one.epoch == 0)
            await eventually(lambda: one.epoch > 0)
        assert one.epoch > ahead
        await one.stop()


async def test_a_defect_of_one_who_is_told_costs_nobody_the_lease(redis_server: RedisServer) -> None:
    """The others are told, and it is renewed."""

    def broken(_word: object) -> None:
        raise ValueError("defect")

    told: list[object] = []
    async with link(redis_server) as client:
        one = brief(client, "a")
        one.on_gained += [broken, told.append]
        one.on_lost += [broken, told.append]
        with capture_logs() as logs:  # to show a traceback takes longer than the lease lasts
            await one.start()
            await eventually(lambda: len(told) == 1)
            epoch = one.epoch
            await client.set(KEYS.lease(PUBLISHER), "b", px=60_000)
            await eventually(lambda: told == [epoch, "taken"])
        assert [line["event"] for line in logs].count("lease_listener_failed") == 2
        assert one.health().ok
        await one.stop()
