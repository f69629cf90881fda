"""What a processor hears of the listener: its words, and when there are none."""

from __future__ import annotations

from typing import Any

import pytest

from mdp.cache.control import Control
from mdp.cache.keys import Keys
from mdp.cache.redis_link import connect
from mdp.listener.announcement import Announcement
from mdp.roles import listener_watch as module
from mdp.roles.listener_watch import GAPS_CHANGED, ListenerWatch
from tests.redis_server import RedisServer
from tests.waiting import eventually

KEYS = Keys("t:")


class Fields:
    """A Redis that holds an announcement, or does not answer."""

    def __init__(self) -> None:
        self.said = Announcement(ts=1, id="a")
        self.fails = False

    async def hgetall(self, _key: str) -> dict[bytes, bytes]:
        if self.fails:
            raise TimeoutError
        return {name.encode(): value for name, value in self.said.fields().items()}


class Rig:
    def __init__(self) -> None:
        self.redis, self.now = Fields(), 100.0
        self.heard: list[tuple[int, bool]] = []
        self.watch = ListenerWatch(
            self.redis, KEYS, Control(None, ""), lambda said, silent: self.heard.append((said.ts, silent)),
            clock=lambda: self.now,
        )  # fmt: skip

    async def look(self, seconds: float = 1.0) -> bool:
        self.now += seconds
        await self.watch.look()
        return self.heard[-1][1]


async def test_no_new_word_for_some_seconds_is_silence() -> None:
    """Until the next one, whoever says it."""
    rig = Rig()
    assert [await rig.look() for _ in range(6)] == [False] * 6
    assert await rig.look()
    assert rig.watch.health().detail == "no listener says anything"
    rig.redis.said = Announcement(ts=1, id="b")
    assert not await rig.look()


async def test_the_feeds_state_is_the_last_word_of_one_who_speaks() -> None:
    """Down before the first word, and where nobody speaks any more: what was said last is old."""
    rig = Rig()
    assert rig.watch.feed_state == "down"
    rig.redis.said = Announcement(ts=1, id="a", state="live")
    await rig.look()
    assert rig.watch.feed_state == "live"
    await rig.look(20)
    for _ in range(6):
        await rig.look()
    assert rig.watch.feed_state == "down"


async def test_a_redis_that_does_not_answer_says_nothing_of_the_listener() -> None:
    """The listener could not speak, either: it gets its time again."""
    rig = Rig()
    await rig.look()
    rig.redis.fails = True
    with pytest.raises(TimeoutError):
        await rig.look(20)
    rig.redis.fails = False
    assert [await rig.look() for _ in range(6)] == [False] * 6
    assert await rig.look()


async def test_news_are_heard_at_once(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gap is marked before the next look; damaged announcements do not end the watch."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 60.0)
    client: Any = connect(redis_server.config())
    control = Control(client, KEYS.control)
    heard: list[int] = []

    def hear(said: Announcement, _silent: bool) -> None:
        heard.append(said.ts)
        raise ValueError("a defect")

    watch = ListenerWatch(client, KEYS, control, hear)
    await control.start()
    await watch.start()
    try:
        await control.ready()
        await eventually(lambda: heard == [0])
        await client.hset(KEYS.listener, mapping=Announcement(ts=7).fields())
        await control.say("something else")
        await control.say(GAPS_CHANGED)
        await eventually(lambda: heard == [0, 7])
    finally:
        await watch.stop()
        await control.stop()
        await client.aclose()
