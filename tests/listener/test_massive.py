"""The listener against scripted servers that speak the provider's protocol."""

from __future__ import annotations

from mdp.listener.states import FeedState

from .fake_provider import KEY, FakeProvider, Session, Watched, quick_config, statuses, trade


async def test_connects_authenticates_subscribes_and_delivers_frames_in_order() -> None:
    """Acknowledgements and data reach the ring as received; the greeting and the auth answer do not."""

    async def script(session: Session) -> None:
        await session.open()
        for number in range(3):
            await session.send(trade(number=number))
        await session.hold()

    async with FakeProvider(script) as provider, Watched(quick_config(provider.feed)) as feed:
        await feed.until(lambda: len(feed.ring) == 4)
        assert feed.frames() == [
            statuses(("success", "subscribed to: T.*")),
            *(trade(number=n) for n in range(3)),
        ]
        assert feed.states == ["connecting", "authenticating", "live"]
        assert feed.listener.health().ok
        assert feed.listener.counters.frames == 4
        assert feed.listener.counters.last_frame_ns > 0
        assert provider.requests == [
            {"action": "auth", "params": KEY},
            {"action": "subscribe", "params": "T.*"},
        ]
    assert feed.listener.state is FeedState.IDLE
