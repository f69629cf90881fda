"""One client's outgoing side: what a slow one misses, gets late, or is closed for."""

from __future__ import annotations

import asyncio

from mdp import feeds
from mdp.wds.client import LARGE_BYTES, Client, Due, Limits, deflated_together
from mdp.wds.counters import WdsCounters
from mdp.wds.frames import close_frame, ping_frame, text_frame
from mdp.wds.protocol import NO_PONG, TOO_SLOW, TOO_SLOW_REASON
from tests.wds.doubles import FakeTransport

LIMIT = 1_000


class FakeTimer:
    """What a loop gives back for a call to come."""

    def __init__(self, timers: list[tuple[float, object]], entry: tuple[float, object]) -> None:
        self._timers = timers
        self._entry = entry

    def cancel(self) -> None:
        """Take it back."""
        if self._entry in self._timers:
            self._timers.remove(self._entry)


class FakeLoop:
    """The part of a loop that a client uses, with time by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, object]] = []

    def time(self) -> float:
        """Seconds."""
        return self.now

    def call_later(self, delay: float, call: object) -> FakeTimer:
        """Note the call; `advance` makes it."""
        self.timers.append((self.now + delay, call))
        return FakeTimer(self.timers, self.timers[-1])

    def advance(self, seconds: float) -> None:
        """Let time pass and make the calls that fall due."""
        self.now += seconds
        due, self.timers = (
            [call for at, call in self.timers if at <= self.now],
            [(at, call) for at, call in self.timers if at > self.now],
        )
        for call in due:
            assert callable(call)
            call()


class Rig:
    """A client with its surroundings."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.transport = FakeTransport()
        self.counters = WdsCounters()
        loop: asyncio.AbstractEventLoop = self.loop  # type: ignore[assignment]
        self.client = Client(1, self.transport.as_transport(), Limits(LIMIT), self.counters, loop)

    def deliver(self, *due: Due) -> bool:
        """One tick's delivery."""
        return self.client.deliver(b"".join(item.frame for item in due), list(due))


def state(symbol: str, size: int = 100, mark: str = "s") -> Due:
    """A quote of a symbol whose frame has about this many bytes."""
    return Due(feeds.QUOTE.feed(symbol), feeds.QUOTE, text_frame(mark.encode() * size))


def event(size: int = 100, mark: str = "e") -> Due:
    """An alert whose frame has about this many bytes."""
    return Due("alerts", feeds.ALERTS, text_frame(mark.encode() * size))


def test_what_is_due_is_one_write() -> None:
    """However many messages: one write a tick."""
    rig = Rig()
    assert rig.deliver(state("A"), event(), state("B"))
    assert len(rig.transport.writes) == 1
    assert rig.counters.deliveries == 3
    assert rig.counters.bytes_sent == len(rig.transport.written)


def test_a_client_without_backlog_gets_a_payload_of_any_size() -> None:
    """A board larger than the limit must reach a client that reads."""
    rig = Rig()
    assert rig.deliver(state("A", 5 * LIMIT))
    assert rig.transport.waiting > LIMIT


def test_a_slow_client_gets_only_the_newest_state() -> None:
    """Values of a state feed wait as one, the newest, and follow when there is room."""
    rig = Rig()
    rig.deliver(state("A", 600))
    assert not rig.deliver(state("B", mark="1"))
    assert not rig.deliver(state("B", mark="2"), state("C", mark="x"))
    assert not rig.deliver(state("B", mark="3"))
    before = len(rig.transport.writes)
    assert not rig.client.drain()
    assert len(rig.transport.writes) == before  # no room: nothing written

    rig.transport.take()
    assert rig.client.drain()

    assert rig.transport.writes[before:] == [state("B", mark="3").frame + state("C", mark="x").frame]
    assert rig.counters.skipped == 2


def test_a_slow_client_of_compression_is_written_nothing_large_at_once() -> None:
    """Compressing half a MiB would hold the loop: skipped values are left to who drains in a thread, and many
    events of one tick go as they are."""
    rig = Rig()
    rig.client = Client(
        1,
        rig.transport.as_transport(),
        Limits(10 * LARGE_BYTES),
        rig.counters,
        rig.client._loop,
        deflated_together,
    )
    rig.deliver(state("A", 9 * LARGE_BYTES))
    rig.deliver(state("B"))
    rig.transport.take()
    before = len(rig.transport.writes)

    assert not rig.deliver(state("C"), event(2 * LARGE_BYTES))

    (written,) = rig.transport.writes[before:]
    assert written[0] == 0x81  # not compressed
    assert len(written) > 2 * LARGE_BYTES
    assert [item.feed for item in rig.client.take()] == ["quote:B", "quote:C"]
    assert not rig.client.dirty


def test_an_older_value_never_follows_a_newer_one() -> None:
    """A value that waited is replaced by the one that comes when there is room again, not sent behind it."""
    rig = Rig()
    rig.deliver(state("A", 600))
    rig.deliver(state("B", mark="1"), state("C", mark="c"))
    rig.transport.take()
    before = len(rig.transport.writes)

    assert rig.deliver(state("B", mark="2"))

    assert rig.transport.writes[before:] == [state("B", mark="2").frame + state("C", mark="c").frame]


def test_states_alone_never_close_a_client() -> None:
    """However long it stalls; and what waits for it stays within the limit."""
    rig = Rig()
    for _ in range(500):
        rig.deliver(*(state(symbol) for symbol in "ABCDEFGH"))
    assert not rig.client.closing
    assert rig.transport.waiting <= 8 * 110 + LIMIT
    assert len(rig.client.dirty) == 8


def test_events_wait_in_order_up_to_the_limit() -> None:
    """They are not skipped, and state gives way to them."""
    rig = Rig()
    rig.deliver(event(300, "a"))
    rig.deliver(state("A", 400))
    rig.deliver(event(300, "b"))
    assert not rig.client.closing
    assert rig.transport.written == event(300, "a").frame + event(300, "b").frame
    assert list(rig.client.dirty) == ["quote:A"]


def test_a_client_too_slow_for_its_events_is_closed_with_advice() -> None:
    """Past the limit the close says what to do; nothing is written after it."""
    rig = Rig()
    for _ in range(30):
        rig.deliver(event())
    assert rig.client.closing
    assert rig.counters.slow_closes == 1
    assert rig.transport.written.endswith(close_frame(TOO_SLOW, TOO_SLOW_REASON))
    assert rig.transport.waiting <= LIMIT + 130
    writes = len(rig.transport.writes)
    rig.client.answer(b"x")
    rig.client.control(ping_frame())
    rig.deliver(state("A"))
    rig.client.close(1001)
    assert len(rig.transport.writes) == writes


def test_a_close_not_taken_within_a_second_cuts_the_connection() -> None:
    """The memory of a stalled client is free a second after its close."""
    rig = Rig()
    rig.client.close(TOO_SLOW, "x")
    rig.loop.advance(0.9)
    assert not rig.transport.aborted
    rig.loop.advance(0.2)
    assert rig.transport.aborted
    assert rig.counters.aborted == 1


def test_a_close_taken_in_time_is_no_abort() -> None:
    """A connection that ended well is left alone by the timer."""
    rig = Rig()
    rig.client.close(1001, "x")
    rig.transport.take()
    rig.client.end()
    rig.loop.advance(2)
    assert not rig.transport.aborted
    assert rig.counters.aborted == 0


def test_nothing_keeps_a_client_that_has_left() -> None:
    """No timer holds what is left of it: in a flood, a second of those is many."""
    rig = Rig()
    rig.client.close(1001, "x")
    rig.transport.take()
    assert rig.loop.timers
    rig.client.end()
    assert not rig.loop.timers


def test_an_ended_connection_whose_bytes_stay_is_cut() -> None:
    """A peer that goes silent while the last bytes leave does not keep the socket."""
    rig = Rig()
    rig.deliver(state("A"))
    rig.client.end()
    assert rig.transport.closing
    assert not rig.transport.aborted
    rig.loop.advance(1.1)
    assert rig.transport.aborted


def test_a_large_answer_does_not_count_as_slowness() -> None:
    """Who asked for a list larger than the limit, and reads it, keeps its events."""
    rig = Rig()
    rig.client.answer(b"x" * 5_000)
    assert rig.client.busy
    rig.deliver(event())
    assert not rig.client.closing
    rig.transport.take()
    for _ in range(30):
        rig.deliver(event())
    assert rig.client.closing  # the allowance ended with the answer


def test_a_silent_client_is_pinged_and_given_up() -> None:
    """After 25 s a ping, 8 s later the end."""
    rig = Rig()
    rig.loop.now += 24
    rig.client.check(rig.loop.now)
    assert rig.transport.writes == []
    rig.loop.now += 1
    rig.client.check(rig.loop.now)
    assert rig.transport.writes == [ping_frame()]
    rig.transport.take()
    rig.loop.now += 7.9
    rig.client.check(rig.loop.now)
    assert not rig.client.closing
    rig.loop.now += 0.1
    rig.client.check(rig.loop.now)
    assert rig.client.closing
    assert rig.counters.pong_timeouts == 1
    assert rig.transport.writes[-1] == close_frame(NO_PONG, "no answer to a ping")


def test_a_sign_of_life_answers_a_ping() -> None:
    """A pong or any message will do; the next silence is pinged again."""
    rig = Rig()
    rig.loop.now += 25
    rig.client.check(rig.loop.now)
    rig.transport.take()
    rig.loop.now += 4
    rig.client.heard()
    rig.loop.now += 20
    rig.client.check(rig.loop.now)
    assert not rig.client.closing
    rig.loop.now += 5
    rig.client.check(rig.loop.now)
    assert rig.transport.writes == [ping_frame(), ping_frame()]


def test_a_slow_line_that_still_takes_bytes_is_alive() -> None:
    """Its ping waits behind other bytes: progress counts as life, standstill does not."""
    rig = Rig()
    rig.deliver(state("A", 900))
    for _ in range(40):
        rig.loop.now += 1
        rig.transport.take(10)
        rig.client.check(rig.loop.now)
    assert not rig.client.closing
    for _ in range(40):
        rig.loop.now += 1
        rig.client.check(rig.loop.now)
    assert rig.client.closing


def test_nothing_is_written_to_a_closed_transport() -> None:
    """The network was faster: every operation is a no-op."""
    rig = Rig()
    rig.transport.closing = True
    rig.client.answer(b"x")
    rig.client.control(b"x")
    assert rig.deliver(state("A"))
    assert rig.client.drain()
    rig.client.close(1001)
    assert rig.client.gone
    assert rig.transport.writes == []
