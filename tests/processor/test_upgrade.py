"""Processors of two versions: what a newer one writes is left to it, what an older one wrote is read."""

from __future__ import annotations

import msgspec
import pytest
from structlog.testing import capture_logs

from mdp.processor import checkpoint
from mdp.queues import entry, stream_writer
from tests.processor.processors import KEYS, Listener, Processor
from tests.processor.test_partitions import market
from tests.redis_server import RedisServer
from tests.waiting import eventually

PARTITIONS = 2
NEWER = checkpoint.SCHEMA + 1


@pytest.fixture
def newer_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written to streams is of the version after ours."""
    monkeypatch.setattr(stream_writer, "_VERSION", str(entry.VERSION + 1).encode())


class Old(Processor):
    """A processor that stops its spreading where it is too old, as the role does."""

    def __init__(self, server: RedisServer, member: str) -> None:
        super().__init__(server, member, PARTITIONS)
        self.reasons: list[str] = []
        self.partitions.on_unable = self.reasons.append


def make_newer(server: RedisServer, partition: int) -> bytes:
    """A checkpoint as a newer version would write it: another number, another form behind it."""
    data = msgspec.msgpack.encode([NEWER, {"epoch": 9, "what": "nobody knows"}, b"packed otherwise"])
    with server.client() as client:
        client.set(KEYS.checkpoint(partition), data)
    return data


async def test_a_newer_checkpoint_is_left_alone_and_said_once(redis_server: RedisServer) -> None:
    """Nothing of it is overwritten, the partition is not worked on, and the process says why."""
    kept = [make_newer(redis_server, partition) for partition in range(PARTITIONS)]
    old = Old(redis_server, "old")
    with capture_logs() as logs:
        await old.start()
        await eventually(lambda: len(old.spread.held) == PARTITIONS and not old.spread._taking)
        await old.spread.stop()  # as the role does when it is told
    assert len(old.reasons) == 1
    assert f"version {NEWER}" in old.reasons[0]
    assert "upgrade" in old.reasons[0]
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["processor_too_old"]
    assert not old.partitions.working
    assert not old.partitions.health().ok
    assert old.partitions.health().detail == old.reasons[0]
    with redis_server.client() as client:
        assert [client.get(KEYS.checkpoint(partition)) for partition in range(PARTITIONS)] == kept
        assert not client.exists(*[KEYS.lease(f"partition:{partition}") for partition in range(PARTITIONS)])
        assert not client.zrange(KEYS.members, 0, -1), "no share is kept for it"
    await old.stop()


@pytest.mark.usefixtures("newer_listener")
async def test_an_old_processor_stops_before_a_newer_entry(redis_server: RedisServer) -> None:
    """It reads nothing more, tries nothing more, and its last checkpoint ends before that entry."""
    listener, old = Listener(redis_server, PARTITIONS), Old(redis_server, "old")
    await old.start()
    await eventually(lambda: len(old.live) == PARTITIONS)
    await listener.start()
    await listener.send(market(2))
    await eventually(lambda: bool(old.reasons))
    redis_server.reset_commands()
    await old.spread.stop()
    assert "a newer listener runs" in old.reasons[0]
    assert old.processed == 0
    assert redis_server.commands().get("xread", 0) == 0, "no loop goes on"
    store = checkpoint.CheckpointStore(listener.client, KEYS)
    saved = [await store.load(partition) for partition in range(PARTITIONS)]
    assert all(one is not None and not sum(one.head.processed.values()) for one in saved)
    await old.stop()
    await listener.stop()


async def test_a_new_processor_goes_on_from_what_an_old_one_left(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entries and checkpoints of the version before its own are read as they are; nothing is lost."""
    listener, old = Listener(redis_server, PARTITIONS), Old(redis_server, "old")
    await listener.start()
    await old.start()
    await eventually(lambda: len(old.live) == PARTITIONS)
    count = await listener.send(market(4))
    await eventually(lambda: old.processed == count)
    await old.stop()
    monkeypatch.setattr(checkpoint, "SCHEMA", NEWER)
    monkeypatch.setattr(entry, "VERSION", entry.VERSION + 1)
    new = Processor(redis_server, "new", PARTITIONS)
    await new.start()
    await eventually(lambda: len(new.live) == PARTITIONS)
    assert new.processed == count
    more = await listener.send(market(2, seed=6))
    await eventually(lambda: new.processed == count + more)
    await new.stop()
    await listener.stop()
