"""When to read, when to work: a live feed that we delay is never held, a replay is held instead of shed."""

from __future__ import annotations

import asyncio

import pytest

from mdp.listener.ring import RawRing
from mdp.processor import pace as rules
from mdp.processor.pace import Pace

MS = 1_000_000
S = 1_000 * MS


class Clock:
    """Monotonic nanoseconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 10**12

    def __call__(self) -> int:
        return self.now


EPOCH_MS = 1_700_000_000_000


class Line:
    """A sender, TCP, our reader and our processing in simulated time; the real `Pace` and ring decide.

    Args:
        per_frame_ns: What processing a frame costs.
        market_ms_per_frame: How far each frame brings the market's time.
        due_ns: Time between two frames at the sender; 0: it sends as fast as we read (a replay).
    """

    READ_NS = 20_000  # of reading a frame

    def __init__(self, *, per_frame_ns: int, market_ms_per_frame: float, due_ns: int) -> None:
        self.clock = Clock()
        self.ring = RawRing(max_bytes=1 << 40, max_age_ns=S, clock=self.clock)
        self.pace = Pace(self.ring, self.clock)
        self.per_frame_ns = per_frame_ns
        self.market_ms_per_frame = market_ms_per_frame
        self.due_ns = due_ns
        self.started_ns = self.clock.now
        self.sent = 0
        self.held_while_behind = 0  # turns
        self.held_since: int | None = None
        self.longest_hold_ns = 0

    def due(self) -> bool:
        return not self.due_ns or self.started_ns + self.sent * self.due_ns <= self.clock.now

    def read(self) -> bool:
        """What the client's callback does with one frame."""
        if self.ring.holding or not self.due():
            return False
        self.clock.now += self.READ_NS
        market_ms = EPOCH_MS + round(self.sent * self.market_ms_per_frame)
        self.ring.append(f'[{{"ev":"T","sym":"A","p":1,"s":1,"t":{market_ms}}}]', self.clock.now)
        self.sent += 1
        return True

    async def reader(self) -> None:
        while True:
            self.read()
            await asyncio.sleep(0)

    async def run(self, seconds: float) -> None:
        """Alternate as the decode stage does: a turn, then a step of up to 3 ms."""
        reader = asyncio.create_task(self.reader())
        until = self.clock.now + int(seconds * S)
        while self.clock.now < until:
            if not len(self.ring):
                self.ring.release()
                if not self.read():
                    self.clock.now += 100_000
                    continue
            await self.pace.turn()
            self.held_while_behind += self.ring.holding and self.pace.behind
            self._watch_hold()
            step_ends = self.clock.now + 3 * MS
            while self.clock.now < step_ends and (item := self.ring.take()) is not None:
                self.clock.now += self.per_frame_ns
                arrival, frame = item
                self.pace.note(arrival, int(str(frame)[-15:-2]))
            self._watch_hold()
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)

    def _watch_hold(self) -> None:
        if self.ring.holding:
            if self.held_since is None:
                self.held_since = self.clock.now
            self.longest_hold_ns = max(self.longest_hold_ns, self.clock.now - self.held_since)
        else:
            self.held_since = None


async def test_a_live_feed_that_we_can_follow_is_never_held() -> None:
    """Work fits into the time: nothing is shed, nobody is held."""
    line = Line(per_frame_ns=MS // 2, market_ms_per_frame=1.0, due_ns=MS)
    await line.run(5)

    assert line.pace.holds == 0
    assert line.ring.counters.shed_frames == 0
    assert line.ring.counters.taken_frames > 4_000


async def test_a_live_feed_that_is_too_fast_is_read_and_shed() -> None:
    """Work takes twice the time there is: reading keeps up with the sender, the ring sheds the oldest."""
    line = Line(per_frame_ns=2 * MS, market_ms_per_frame=1.0, due_ns=MS)
    await line.run(3)  # overload becomes known
    sent = line.sent

    await line.run(10)

    assert line.sent - sent == pytest.approx(10_000, rel=0.1), "all that the provider had to send was read"
    assert line.ring.counters.shed_frames > 3_000
    assert line.held_while_behind == 0


async def test_minutes_of_overload_never_make_the_reader_seconds_late() -> None:
    """A provider that cuts off readers after 10 s keeps us: lateness does not creep up with time."""
    line = Line(per_frame_ns=20 * MS, market_ms_per_frame=10.0, due_ns=10 * MS)
    latest_ns = 0
    for _ in range(60):
        await line.run(10)
        latest_ns = max(latest_ns, line.clock.now - (line.started_ns + line.sent * line.due_ns))

    assert latest_ns < 2 * S
    assert line.longest_hold_ns < 2 * S
    assert line.held_while_behind == 0


async def test_a_replay_at_full_speed_is_held_and_loses_nothing() -> None:
    """Its market time runs ahead of the wall clock: TCP slows the sender, and no frame is shed."""
    line = Line(per_frame_ns=MS // 5, market_ms_per_frame=100.0, due_ns=0)
    await line.run(10)

    assert line.pace.holds > 0
    assert line.ring.counters.shed_frames == 0
    assert line.ring.counters.taken_frames > 35_000, "holding the reader does not idle the processor"


async def test_a_replay_that_began_again_is_held_too() -> None:
    """Market time that jumps back is no delay of ours: a looping replay must not be shed for it."""
    line = Line(per_frame_ns=MS // 5, market_ms_per_frame=100.0, due_ns=0)
    await line.run(2)

    line.pace.note(line.clock.now, 5.0)
    assert not line.pace.behind
    line.pace.note(line.clock.now + S, 5.0)
    assert line.pace.behind, "from its new beginning on it is measured like any other"


def test_one_slow_second_is_not_held_against_the_next_minutes() -> None:
    """`behind` compares with the best of the last windows, and ends when the feed is in time again."""
    clock = Clock()
    pace = Pace(RawRing(max_bytes=100, max_age_ns=S, clock=clock), clock)
    at = clock.now
    pace.note(at, 1_000.0)
    pace.note(at + S, 1_400.0)  # 600 ms late
    assert pace.behind
    pace.note(at + 2 * S, 3_000.0)
    clock.now += rules.STICKY_NS

    assert not pace.behind


def test_a_replay_that_was_interrupted_is_not_taken_for_a_live_feed() -> None:
    """A stall of ours delays a replay, too; but then it gets further ahead than it ever was."""
    clock = Clock()
    pace = Pace(RawRing(max_bytes=100, max_age_ns=S, clock=clock), clock)
    at = clock.now
    pace.note(at, 1_000.0)
    pace.note(at + S, 1_400.0)
    assert pace.behind
    pace.note(at + S + 300 * MS, 2_400.0)

    assert not pace.behind


@pytest.mark.parametrize("as_bytes", [False, True])
async def test_the_newest_frame_read_decides(as_bytes: bool) -> None:
    """However long what is decoded has waited: a feed that is late where it is read is a live one."""
    clock = Clock()
    ring = RawRing(max_bytes=1_000_000, max_age_ns=S, clock=clock)
    pace = Pace(ring, clock)

    def read(late_ms: int) -> None:
        market_ms = EPOCH_MS + clock.now // MS - late_ms
        frame = f'[{{"ev":"A","sym":"A", "s": {market_ms},"e":{market_ms + 1000},"dv":"1.0"}}]'
        ring.append(frame.encode() if as_bytes else frame, clock.now)

    pace.note(clock.now, EPOCH_MS + clock.now // MS)
    clock.now += rules.HOLD_NS
    read(-5_000)  # five seconds in a sixth of one
    clock.now += rules.HOLD_NS + 1
    await pace.turn()
    await pace.turn()
    assert pace.replaying
    assert ring.holding
    assert not ring.shed_by_age, "nobody waits for a replay's news"
    clock.now += 2 * S  # nothing newer comes from it: as late as a live feed that we delay
    read(-3_000)
    pace._look()
    await pace.turn()

    assert pace.behind
    assert not pace.replaying
    assert not ring.holding
    assert ring.shed_by_age


def test_frames_without_a_time_at_their_end_decide_nothing() -> None:
    """Statuses, garbage, other units of time."""
    clock = Clock()
    ring = RawRing(max_bytes=1_000_000, max_age_ns=S, clock=clock)
    pace = Pace(ring, clock)
    for frame in (
        "",
        "[]",
        '[{"ev":"status","message":"x"}]',
        b"\xff\xfe",
        '"t":12',
        '"t":99999999999999999999999',
    ):
        ring.append(frame, clock.now)
        pace._look()
    assert not pace.behind


def test_a_market_clock_that_runs_at_another_offset_is_no_delay() -> None:
    """A delayed feed (15 minutes) and a replay of another year are compared with themselves only."""
    clock = Clock()
    pace = Pace(RawRing(max_bytes=100, max_age_ns=S, clock=clock), clock)
    for second in range(200):
        pace.note(clock.now + second * S, 1_400_000_000_000 + second * 1_000.0)
        assert not pace.behind


def test_an_outage_does_not_make_the_feed_late() -> None:
    """After minutes of silence the first events are as late as any were before."""
    clock = Clock()
    pace = Pace(RawRing(max_bytes=100, max_age_ns=S, clock=clock), clock)
    pace.note(clock.now, 0.0)
    pace.note(clock.now + 600 * S, 600_000.0)

    assert not pace.behind


async def test_a_turn_ends_while_a_reader_never_runs_dry() -> None:
    """Reading has priority, not a monopoly: 2 ms, then work goes on."""
    clock = Clock()
    ring = RawRing(max_bytes=1 << 40, max_age_ns=S, clock=clock)
    pace = Pace(ring, clock)
    reads = 0

    async def read() -> None:
        nonlocal reads
        while True:
            clock.now += 50_000
            ring.append("[]", clock.now)
            reads += 1
            await asyncio.sleep(0)

    reader = asyncio.create_task(read())
    began = clock.now
    await pace.turn()
    reader.cancel()

    assert clock.now - began <= rules.READ_NS + 4 * 50_000
    assert reads >= rules.READ_NS // 50_000, "it had its 2 ms"


async def test_a_turn_ends_at_once_where_nothing_is_to_be_read() -> None:
    """Nothing waits for a quiet feed: with a clock that stands still a timed wait would never end."""
    clock = Clock()
    pace = Pace(RawRing(max_bytes=100, max_age_ns=S, clock=clock), clock)

    await asyncio.wait_for(pace.turn(), 60)


async def test_a_hold_ends_when_the_backlog_is_worked_off() -> None:
    """Release comes before the ring is empty, so that the processor does not wait for the reader."""
    clock = Clock()
    ring = RawRing(max_bytes=100, max_age_ns=S, clock=clock)
    pace = Pace(ring, clock)
    pace.note(clock.now, 1_000.0)
    pace.note(clock.now, 2_000.0)  # a second in no time: a replay
    ring.append("[]", clock.now)
    clock.now += rules.HOLD_NS + 1
    await pace.turn()
    assert ring.holding

    ring.take()
    ring.append("[]", clock.now - rules.RELEASE_NS + 1)
    await pace.turn()

    assert not ring.holding


async def test_a_hold_ends_when_the_feed_turns_out_to_be_live() -> None:
    """Market time fell behind while the reader was held: reading comes first again."""
    clock = Clock()
    ring = RawRing(max_bytes=100, max_age_ns=S, clock=clock)
    pace = Pace(ring, clock)
    pace.note(clock.now, 1_000.0)
    pace.note(clock.now, 2_000.0)  # a second in no time: a replay
    ring.append("[]", clock.now)
    clock.now += rules.HOLD_NS + 1
    await pace.turn()
    assert ring.holding

    pace.note(clock.now + S, 2_400.0)
    await pace.turn()

    assert not ring.holding


async def test_workers_give_way_while_a_feed_that_fell_behind_is_read() -> None:
    """During the reading alone, and only where we are behind: else they work whenever the loop is free."""
    clock = Clock()
    pace = Pace(RawRing(max_bytes=100, max_age_ns=S, clock=clock), clock)
    seen: list[bool] = []

    async def worker() -> None:
        while True:
            seen.append(not pace.may_work.is_set())
            await asyncio.sleep(0)

    task = asyncio.create_task(worker())
    pace.note(clock.now, 1_000.0)
    await pace.turn()
    assert not any(seen)
    pace.note(clock.now + S, 1_400.0)
    seen.clear()
    await pace.turn()
    task.cancel()

    assert seen[0] is False, "each worker has a turn between two readings"
    assert any(seen)
    assert pace.may_work.is_set()
