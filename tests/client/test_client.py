"""The client against the real service: values with deltas applied, losses, refusals, slow readers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from mdp import feeds
from mdp.cache.memory import MemoryBus, MemoryCache
from mdp.client import ClientError, TooSlow, Update, WdsClient
from mdp.client.values import EVENT_FEEDS, is_event
from mdp.config import WdsConfig
from mdp.feeds import EVENT, FAMILIES
from mdp.wds.protocol import TOKEN_EXPIRED, TOO_MANY_CONNECTIONS
from mdp.wds.server import WidgetDataService
from tests.wds.doubles import Running, running, until


async def soon(seconds: float) -> None:
    """A back-off that does not wait."""
    await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def client_of(service: Running, **options: Any) -> AsyncIterator[WdsClient]:
    """A client that does not wait between attempts."""
    async with WdsClient(service.url, sleep=options.pop("sleep", soon), **options) as client:
        yield client


async def take(updates: Any) -> Update:
    """The next update, within a bound of time."""
    async with asyncio.timeout(60):
        update = await anext(updates)
    assert isinstance(update, Update)
    return update


def board(*rows: tuple[str, int], **more: Any) -> list[dict[str, Any]]:
    """Rows of a board in order."""
    return [
        {"symbol": symbol, "rank": rank, "pct_change": change, "close": 1.0, **more}
        for rank, (symbol, change) in enumerate(rows, 1)
    ]


def publish(service: Running, family: feeds.Family, symbol: str, value: Any) -> None:
    """As the analyzers do: into the cache and onto the bus."""
    if family.kind == EVENT:
        service.cache.push(family, symbol, value)
    else:
        service.cache.set(family, symbol, value)
    service.bus.publish(family, symbol, value)


def connections(service: Running) -> int:
    """How many there are now."""
    return service.service.counters.clients


async def restart(service: Running, bus: MemoryBus) -> None:
    """End the service; another publisher and another service begin at the same address."""
    config = WdsConfig(port=service.service.port)
    await service.service.stop()
    service.bus, service.cache = bus, MemoryCache(bus)
    service.service = WidgetDataService(config, service.bus, service.cache)
    await service.service.start()


def test_the_event_feeds_are_those_of_the_contract() -> None:
    """The client knows them by itself, as it imports nothing of the service."""
    of_contract = {family.feed("*" if family.hole else "") for family in FAMILIES if family.kind == EVENT}
    assert set(EVENT_FEEDS) == of_contract
    for family in FAMILIES:
        filling = {"symbol": "X:BTCUSD", "name": "momentum", "": ""}[family.hole]
        assert is_event(family.feed(filling)) is (family.kind == EVENT), family.name
    assert not is_event("scanners:*")
    assert is_event("stocks:trades:*")


async def test_a_board_arrives_whole_and_stays_right_by_deltas() -> None:
    """Numbers of the publisher included; what is sent after the first is less than the board."""
    async with running() as service, client_of(service) as client:
        publish(service, feeds.TOP_GAINERS, "", board(("A", 9), ("B", 8)))
        updates = client.subscribe("scanners:top_gainers")
        first = await take(updates)
        assert (first.feed, first.kind, first.epoch, first.seq) == ("scanners:top_gainers", "value", 1, 1)
        assert first.value == board(("A", 9), ("B", 8))
        publish(service, feeds.TOP_GAINERS, "", board(("C", 12), ("A", 9)))
        second = await take(updates)
        assert second.value == board(("C", 12), ("A", 9))
        assert (second.epoch, second.seq) == (1, 2)
        assert second.ts >= first.ts > 1_000_000_000_000
        assert first.value == board(("A", 9), ("B", 8))  # what was given stays as it was
        publish(service, feeds.TOP_GAINERS, "", [])
        assert (await take(updates)).value == []


async def test_options_reach_the_service() -> None:
    """Rows, fields and comparisons."""
    async with running() as service, client_of(service) as client:
        publish(service, feeds.TOP_GAINERS, "", board(("A", 30), ("B", 20), ("C", 10)))
        updates = client.subscribe(
            "scanners:top_gainers", limit=1, fields=["close"], where=[("pct_change", "<", 25)]
        )
        assert (await take(updates)).value == [{"symbol": "B", "rank": 2, "close": 1.0}]


async def test_many_subscriptions_share_a_connection() -> None:
    """Also `get`; only a second look at the same feed costs one more, and goes with it."""
    async with running() as service, client_of(service) as client:
        for number in range(20):
            publish(service, feeds.QUOTE, f"S{number}", {"symbol": f"S{number}", "close": number})
        streams = [client.subscribe(f"quote:S{number}") for number in range(20)]
        got = await asyncio.gather(*map(take, streams))
        assert [update.value["close"] for update in got] == list(range(20))
        assert (await client.get("quote:S3"))["close"] == 3
        with pytest.raises(ClientError, match="no feed"):
            await client.get("nothing")
        assert connections(service) == 1
        again = client.subscribe("quote:S3", fields=["close"])
        assert (await take(again)).value == {"symbol": "S3", "close": 3}
        assert connections(service) == 2
        publish(service, feeds.QUOTE, "S3", {"symbol": "S3", "close": 4, "open": 1})
        assert (await take(streams[3])).value == {"symbol": "S3", "close": 4, "open": 1}
        assert (await take(again)).value == {"symbol": "S3", "close": 4}
        await again.aclose()
        await until(lambda: connections(service) == 1)
        for stream in streams:
            await stream.aclose()
        await until(lambda: connections(service) == 0)


async def test_the_end_of_an_iteration_is_the_end_of_the_subscription() -> None:
    """Those that are left go on."""
    async with running() as service, client_of(service) as client:
        kept, left = client.subscribe("quote:A"), client.subscribe("quote:B")
        await asyncio.gather(take(kept), take(left))
        await left.aclose()
        await until(lambda: service.service.counters.subscriptions == 1)
        publish(service, feeds.QUOTE, "A", {"symbol": "A", "close": 1})
        assert (await take(kept)).value == {"symbol": "A", "close": 1}
        back = client.subscribe("quote:B")
        assert (await take(back)).value is None
        assert connections(service) == 1


async def test_a_wildcard_names_the_feed_of_each_update() -> None:
    """And keeps the values of its feeds apart."""
    async with running() as service, client_of(service) as client:
        updates = client.subscribe("quote:*")
        waiting = asyncio.ensure_future(take(updates))
        await until(lambda: service.service.counters.subscriptions == 1)
        await asyncio.sleep(0.1)
        for close in (1, 2):
            for symbol in ("A", "X:BTC"):
                publish(service, feeds.QUOTE, symbol, {"symbol": symbol, "close": close, "open": 1})
            got: dict[str, int] = {}
            for _ in range(2):
                update = await (waiting if close == 1 and not got else take(updates))
                got[update.feed] = update.value["close"]
            assert got == {"quote:A": close, "quote:X:BTC": close}


async def test_events_that_were_missed_follow_after_a_restart() -> None:
    """Each once and in order, although the service was gone when some of them were published."""
    async with running() as service, client_of(service) as client:
        publish(service, feeds.HALTS, "", {"n": 0})
        states: list[str] = []
        updates = client.subscribe("halts", on_state=states.append)
        first = await take(updates)
        assert (first.kind, first.value) == ("list", [{"n": 0}])
        publish(service, feeds.HALTS, "", {"n": 1})
        assert (await take(updates)).value == {"n": 1}
        port = service.service.port
        await service.service.stop()
        await until(lambda: len(states) > 1)
        for number in range(2, 6):
            publish(service, feeds.HALTS, "", {"n": number})
        service.service = WidgetDataService(WdsConfig(port=port), service.bus, service.cache)
        await service.service.start()
        got = [await take(updates) for _ in range(4)]
        assert [(update.kind, update.value["n"], update.gap) for update in got] == [
            ("event", number, False) for number in range(2, 6)
        ]
        assert states[0] == states[-1] == "live"
        assert "trying again" in states[1]


async def test_another_life_of_the_publisher_is_a_gap() -> None:
    """What there is now comes, and says that something may be missing."""
    async with running() as service, client_of(service) as client:
        updates = client.subscribe("halts")
        assert (await take(updates)).value == []
        publish(service, feeds.HALTS, "", {"n": 1})
        assert not (await take(updates)).gap
        await restart(service, MemoryBus(epoch=2))
        got = await take(updates)
        assert (got.kind, got.gap) == ("list", True)
        publish(service, feeds.HALTS, "", {"n": 2})
        after = await take(updates)
        assert (after.kind, after.value, after.epoch, after.gap) == ("event", {"n": 2}, 2, False)


async def test_a_killed_connection_is_made_again() -> None:
    """A board goes on with a whole value, though the line was cut without a word; five times."""
    async with running() as service, client_of(service) as client:
        updates = client.subscribe("scanners:top_gainers")
        await take(updates)
        for number in range(5):
            for peer in list(service.service._clients):
                peer._transport.abort()
            publish(service, feeds.TOP_GAINERS, "", board(("A", number)))
            while (await take(updates)).value != board(("A", number)):
                pass


async def test_events_survive_kills_while_they_come() -> None:
    """A line that is cut ten times in the middle of 500 events loses and repeats none."""
    async with running() as service, client_of(service) as client:
        updates = client.subscribe("halts")
        assert (await take(updates)).kind == "list"

        async def market() -> None:
            for number in range(1, 501):
                publish(service, feeds.HALTS, "", number)
                if number % 50 == 0:
                    for peer in list(service.service._clients):
                        peer._transport.abort()
                await asyncio.sleep(0.001)

        task = asyncio.create_task(market())
        got = [await take(updates) for _ in range(500)]
        await task
        assert [update.value for update in got] == list(range(1, 501))
        assert not any(update.gap for update in got)


async def test_who_reads_slowly_gets_the_newest_value() -> None:
    """Of a state feed nothing piles up."""
    async with running() as service, client_of(service) as client:
        updates = client.subscribe("quote:A")
        await take(updates)
        for close in range(30):
            publish(service, feeds.QUOTE, "A", {"symbol": "A", "close": close})
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.2)
        update = await take(updates)
        assert update.value == {"symbol": "A", "close": 29}
        assert update.seq == 30


async def test_who_reads_events_too_slowly_is_told() -> None:
    """After those that waited."""
    async with running() as service, client_of(service) as client:
        updates = client.subscribe("halts", max_events=3)
        assert (await take(updates)).kind == "list"
        for number in range(1, 9):
            publish(service, feeds.HALTS, "", number)
        await asyncio.sleep(0.2)
        assert [(await take(updates)).value for _ in range(3)] == [1, 2, 3]
        with pytest.raises(TooSlow, match="read faster"):
            await take(updates)
        await until(lambda: connections(service) == 0)


async def test_what_is_refused_is_an_error_for_itself_alone() -> None:
    """A wrong name among many subscribed at the same moment does not harm the others."""
    async with running() as service, client_of(service) as client:
        names = ["quote:A", "nothing:at:all", "quote:B"]
        streams = [client.subscribe(name) for name in names]
        got = await asyncio.gather(*map(take, streams), return_exceptions=True)
        assert isinstance(got[1], ClientError)
        assert "nothing:at:all was refused" in str(got[1])
        assert [got[0].feed, got[2].feed] == ["quote:A", "quote:B"]  # type: ignore[union-attr]
        with pytest.raises(ClientError, match="where"):
            await take(client.subscribe("quote:C", where=[["close", "~", 1]]))


async def test_more_actions_than_are_allowed_come_later() -> None:
    """`slow_down` is obeyed, not raised."""
    async with running(WdsConfig(actions_per_second=2)) as service, client_of(service) as client:
        streams = [client.subscribe(f"quote:S{number}", fields=[f"f{number}"]) for number in range(8)]
        got = await asyncio.gather(*map(take, streams))
        assert len({update.feed for update in got}) == 8
        assert connections(service) == 1


async def test_keys_open_and_wrong_ones_do_not() -> None:
    """A refused key ends the iteration at once, without further attempts and without showing it."""
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    config = WdsConfig(auth_enabled=True, api_keys=["hunter2"])
    async with running(config) as service:
        publish(service, feeds.QUOTE, "A", {"symbol": "A"})
        async with client_of(service, api_key="hunter2") as client:
            assert (await take(client.subscribe("quote:A"))).value == {"symbol": "A"}
        async with client_of(service, api_key="s3cret", sleep=note) as client:
            with pytest.raises(ClientError, match="refused the API key") as caught:
                await take(client.subscribe("quote:A"))
            assert "s3cret" not in str(caught.value) + repr(client)
        async with client_of(service, sleep=note) as client:
            with pytest.raises(ClientError, match="must be an auth with a valid key"):
                await take(client.subscribe("quote:A"))
        assert waits == []


class Scripted:
    """What a service of version 2 says, said by hand: for what the real one says rarely."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.sockets: list[web.WebSocketResponse] = []
        self.port = 0
        self.deaf = False

    async def handle(self, request: web.Request) -> web.WebSocketResponse:
        """Say yes to all."""
        socket = web.WebSocketResponse(protocols=("mdp.v2",))
        await socket.prepare(request)
        self.sockets.append(socket)
        async for frame in socket:
            message = frame.json()
            self.heard.append(message)
            if self.deaf:
                continue
            if message["action"] == "auth":
                await socket.send_json({"status": "authorized"})
            elif message["action"] == "subscribe":
                await socket.send_json(
                    {"status": "subscribed", "feeds": message["feeds"], "id": message["id"]}
                )
                await self.tell(seq=1, kind="snapshot", data={"symbol": "A", "close": 1})
        return socket

    async def tell(self, **message: Any) -> None:
        """A message of quote:A on the newest connection."""
        await self.sockets[-1].send_json([{"feed": "quote:A", "epoch": 1, "ts": 1, **message}])

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/ws"


@contextlib.asynccontextmanager
async def scripted() -> AsyncIterator[Scripted]:
    """It listens on a free port."""
    service = Scripted()
    app = web.Application()
    app.router.add_get("/ws", service.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.port = runner.addresses[0][1]
    try:
        yield service
    finally:
        await runner.cleanup()


async def test_a_delta_that_does_not_fit_is_not_applied() -> None:
    """It subscribes again; when that keeps happening, it asks for whole values."""
    async with scripted() as service, WdsClient(service.url) as client:
        updates = client.subscribe("quote:A")
        assert (await take(updates)).value["close"] == 1
        await service.tell(seq=2, kind="delta", base=1, data={"close": 2})
        assert (await take(updates)).value == {"symbol": "A", "close": 2}
        for wrong in (
            {"base": 1, "seq": 3},
            {"base": 1, "seq": 4, "epoch": 9},
            {"base": 1, "seq": 5, "data": 7},
        ):
            await service.tell(**{"kind": "delta", "data": {"close": 99}, **wrong})
            assert (await take(updates)).value["close"] == 1
        asked = [message for message in service.heard if message["action"] == "subscribe"]
        assert [message.get("full", False) for message in asked] == [False, False, False, True]


async def test_fresh_tokens_are_sent_before_the_old_one_ends() -> None:
    """On the same connection; also for a connection that ended for that reason."""
    numbers = iter(range(1, 9))

    async def token() -> str:
        return f"t{next(numbers)}"

    async with scripted() as service, WdsClient(service.url, token=token, sleep=soon) as client:
        updates = client.subscribe("quote:A")
        await take(updates)
        await service.sockets[-1].send_json({"status": "token expires", "seconds": 30})
        await until(lambda: sum(message["action"] == "auth" for message in service.heard) == 2)
        assert len(service.sockets) == 1
        await service.sockets[-1].close(code=TOKEN_EXPIRED)
        await take(updates)
        assert [m["token"] for m in service.heard if m["action"] == "auth"] == ["t1", "t2", "t3"]


async def test_a_fixed_token_warns_and_then_ends() -> None:
    """Nothing can be done but tell."""
    said: list[str] = []
    async with scripted() as service, WdsClient(service.url, token="t", on_warning=said.append) as client:
        updates = client.subscribe("quote:A")
        await take(updates)
        await service.sockets[-1].send_json({"status": "token expires", "seconds": 30})
        await until(lambda: said == ["token expires in 30 s"])
        await service.sockets[-1].close(code=TOKEN_EXPIRED)
        with pytest.raises(ClientError, match="token has expired"):
            await take(updates)


async def test_codes_that_ask_for_patience_get_it() -> None:
    """Too many connections: seconds, and not the first short wait."""
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    async with scripted() as service, WdsClient(service.url, sleep=note) as client:
        updates = client.subscribe("quote:A")
        await take(updates)
        await service.sockets[-1].close(code=TOO_MANY_CONNECTIONS)
        await take(updates)
    assert waits[0] >= 5.0


async def test_a_service_that_does_not_answer_is_left() -> None:
    """Connected, but no `subscribed`: another attempt."""
    states: list[str] = []
    async with scripted() as service:
        service.deaf = True
        async with WdsClient(service.url, timeout_seconds=1.0, sleep=soon) as client:
            waiting = asyncio.ensure_future(take(client.subscribe("quote:A", on_state=states.append)))
            await until(lambda: len(states) >= 2)
            waiting.cancel()
    assert states[0] == "no answer within 1 s; trying again"


async def test_leaving_the_client_ends_what_iterates() -> None:
    """With an error that says so, not a hang."""
    async with running() as service:
        async with client_of(service) as client:
            updates = client.subscribe("quote:A")
            await take(updates)
            waiting = asyncio.ensure_future(take(updates))
            await asyncio.sleep(0)
        with pytest.raises(ClientError, match="client was closed"):
            await waiting


async def test_a_stream_is_payloads_only() -> None:
    """Values that there are and events from now on: what came before version 2 came, too."""
    async with running() as service, client_of(service) as client:
        publish(service, feeds.HALTS, "", {"n": 1})
        stream = client.stream("halts")
        waiting = asyncio.ensure_future(anext(stream))
        await until(lambda: service.service.counters.subscriptions == 1)
        await asyncio.sleep(0.1)
        publish(service, feeds.HALTS, "", {"n": 2})
        assert await waiting == {"n": 2}
