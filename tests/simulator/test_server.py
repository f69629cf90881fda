"""Conversations with the simulator over a real socket, by a plain WebSocket client."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter

import aiohttp
import pytest
from websockets.exceptions import InvalidStatus

from mdp.simulator import Simulator, SimulatorOptions

from .support import EVERYTHING, Client, dial, eventually, serve, subscriber


async def test_greeting_authentication_acknowledgement_then_data() -> None:
    """The provider's order of things, word for word."""
    async with serve() as simulator, dial(simulator) as client:
        assert await client.receive() == [
            {"ev": "status", "status": "connected", "message": "Connected Successfully"}
        ]
        await client.send("auth", "any key")
        assert await client.receive() == [
            {"ev": "status", "status": "auth_success", "message": "authenticated"}
        ]
        await client.send("subscribe", "T.*,AM.MSFT")
        assert await client.receive() == [
            {"ev": "status", "status": "success", "message": "subscribed to: T.*"},
            {"ev": "status", "status": "success", "message": "subscribed to: AM.MSFT"},
        ]
        assert {row["ev"] for row in await client.collect(50)} <= {"T", "AM"}


async def test_no_data_before_a_subscription() -> None:
    """An authenticated client without subscriptions hears nothing."""
    async with serve() as simulator, dial(simulator) as client, subscriber(simulator, "T.*") as other:
        assert await client.authenticate() == "auth_success"
        await other.collect(500)
        await client.send("subscribe", "Q.NVDA")
        assert (await client.receive())[0]["message"] == "subscribed to: Q.NVDA"


async def test_only_what_is_subscribed_is_sent() -> None:
    """One symbol's quotes and all second bars: nothing else comes, and both come."""
    async with serve() as simulator, subscriber(simulator, "Q.NVDA,A.*") as client:
        rows = await client.collect(400)
    assert {(row["ev"], row["sym"] if row["ev"] == "Q" else "*") for row in rows} == {
        ("Q", "NVDA"),
        ("A", "*"),
    }
    assert len({row["sym"] for row in rows}) > 10


async def test_an_unknown_ticker_is_acknowledged_and_silent() -> None:
    """An unknown topic is not even acknowledged."""
    async with serve() as simulator, dial(simulator) as client:
        await client.authenticate()
        assert await client.subscribe("XYZ.AAPL,T.NOSUCHSYMBOL") == ["subscribed to: T.NOSUCHSYMBOL"]
        assert await client.subscribe("T.NVDA") == ["subscribed to: T.NVDA"]
        assert {row["sym"] for row in await client.collect(20)} == {"NVDA"}


async def test_unsubscribing_stops_the_data_of_that_pair() -> None:
    """After the acknowledgement, no event of it comes."""
    async with serve() as simulator, subscriber(simulator, "T.*,Q.*") as client:
        await client.send("unsubscribe", "Q.*")
        await client.until(lambda row: row.get("message") == "unsubscribed to: Q.*")
        assert {row["ev"] for row in await client.collect(300)} == {"T"}


async def test_a_topic_outside_the_plan_is_refused_alone() -> None:
    """`not authorized` for it, data for the rest."""
    async with serve(not_authorized=["Q"]) as simulator, dial(simulator) as client:
        await client.authenticate()
        await client.send("subscribe", "Q.*,T.*")
        assert [(row["status"], row["message"]) for row in await client.receive()] == [
            ("error", "not authorized"),
            ("success", "subscribed to: T.*"),
        ]
        assert {row["ev"] for row in await client.collect(100)} == {"T"}


async def test_a_wrong_key_is_refused_and_the_line_drops() -> None:
    """`auth_failed`, then an end without a close frame."""
    async with serve(api_keys=["right"]) as simulator:
        async with dial(simulator) as client:
            assert await client.authenticate("wrong") == "auth_failed"
            assert await client.closed() == 1006
        async with dial(simulator) as client:
            assert await client.authenticate("right") == "auth_success"


async def test_silence_instead_of_a_key_times_out() -> None:
    """`auth_timeout`, then closed."""
    async with serve(auth_timeout_seconds=0.05) as simulator, dial(simulator) as client:
        rows = await client.until(lambda row: row["status"] == "auth_timeout")
        assert rows[0]["message"] == "No authentication request received."
        assert await client.closed() == 1008


async def test_subscribing_before_authentication_gives_no_data() -> None:
    """An error, and the pair is not kept."""
    async with serve() as simulator, dial(simulator) as client:
        await client.receive()
        await client.send("subscribe", "T.*")
        assert (await client.receive())[0]["status"] == "error"
        await client.send("auth", "key")
        assert (await client.receive())[0]["status"] == "auth_success"
        assert next(iter(simulator.connections.values())).live is False


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", '{"action":"dance"}', '{"action":"subscribe","params":7}']
)
async def test_nonsense_is_answered_and_the_connection_stays(text: str) -> None:
    """Whatever a client sends, it can go on."""
    async with serve() as simulator, dial(simulator) as client:
        await client.authenticate()
        await client.ws.send(text)
        assert (await client.receive())[0]["status"] == "error"
        assert await client.subscribe("T.*") == ["subscribed to: T.*"]


async def test_a_second_connection_is_allowed_by_default() -> None:
    """Both get the same events."""
    async with serve() as simulator, subscriber(simulator, "A.*") as one, subscriber(simulator, "A.*") as two:
        await asyncio.gather(one.collect(50), two.collect(50))


async def test_a_second_connection_can_be_turned_away() -> None:
    """The newcomer authenticates, then `max_connections` and 1008; the older one stays."""
    async with serve(second_connection="reject") as simulator, subscriber(simulator, "A.*") as older:
        async with dial(simulator) as client:
            assert await client.authenticate() == "auth_success"
            assert (await client.receive())[0]["status"] == "max_connections"
            assert await client.closed() == 1008
        async with dial(simulator) as client:
            assert await client.authenticate("another key") == "auth_success"
            assert await client.subscribe("A.*") == ["subscribed to: A.*"]
        await older.collect(10)


async def test_a_second_connection_can_evict_the_first() -> None:
    """The older one gets 1008, the newcomer gets data."""
    async with (
        serve(second_connection="evict") as simulator,
        subscriber(simulator, "A.*") as older,
        subscriber(simulator, "A.*") as newer,
    ):
        assert await older.closed() == 1008
        await newer.collect(10)


async def test_sent_is_what_the_clients_received() -> None:
    """By type, over two clients with different subscriptions, once everything has arrived."""
    async with serve() as simulator:
        received: Counter[str] = Counter()

        async def count(client: Client) -> None:
            async for text in client.ws:
                received.update(row["ev"] for row in json.loads(text) if row["ev"] != "status")

        async with subscriber(simulator, EVERYTHING) as one, subscriber(simulator, "T.NVDA,A.*") as two:
            counting = [asyncio.create_task(count(one)), asyncio.create_task(count(two))]
            # 1,000 bars of each client at least, then a stop of the market.
            await eventually(lambda: simulator.sent["A"] > 2_000)
            simulator.set_fault("stall")
            await eventually(lambda: received.total() >= simulator.sent.total())
            assert received - Counter(status=received["status"]) == simulator.sent
            assert min(received[topic] for topic in ("T", "Q", "A")) > 0
        await asyncio.gather(*counting)


async def test_equal_seeds_send_equal_events_whoever_listens() -> None:
    """Two simulators, one with another client beside: the same trades of one symbol, in the same order."""
    settings = {"seed": 9, "start": "2026-03-10T11:00:00", "speed": 0.0}  # 0: nothing before a subscriber
    async with (
        serve(**settings) as one,
        serve(**settings) as two,
        subscriber(one, "T.NVDA") as alone,
        subscriber(two, "T.NVDA") as beside,
        subscriber(two, EVERYTHING) as crowd,
    ):
        first = [row["i"] for row in await alone.collect(30)]
        reading = asyncio.create_task(crowd.closed())
        second = [row["i"] for row in await beside.collect(30)]
        await crowd.ws.close()
        await reading
    assert first[:30] == second[:30]


async def test_a_plain_get_of_the_websocket_address_is_told_so() -> None:
    """426 instead of a crash."""
    async with serve() as simulator, aiohttp.ClientSession() as session:
        answer = await session.get(f"http://127.0.0.1:{simulator.port}/stocks")
        assert answer.status == 426


async def test_stop_closes_clients_and_frees_the_port() -> None:
    """Twice is safe; the port can be used at once."""
    simulator = Simulator(SimulatorOptions(symbols=50))
    await simulator.start()
    async with subscriber(simulator, "T.*") as client:
        await simulator.stop()
        assert await client.closed() in (1001, 1006)
    await simulator.stop()
    again = Simulator(SimulatorOptions(symbols=50, port=simulator.port))
    await again.start()
    await again.stop()


async def test_keys_appear_in_no_output(caplog: pytest.LogCaptureFixture) -> None:
    """Neither in the options' text, the statistics nor the log."""
    caplog.set_level(logging.DEBUG)
    async with serve(api_keys=["sesame-7f3a"]) as simulator, dial(simulator) as client:
        assert await client.authenticate("sesame-7f3a") == "auth_success"
        shown = repr(simulator.options) + json.dumps(simulator.stats()) + repr(simulator)
        async with dial(simulator) as other:
            await other.authenticate("sesame-wrong")
    logged = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets")]
    assert "sesame" not in shown + " ".join(logged)


async def test_refused_upgrades_by_fault() -> None:
    """401 once, 403 once, then in."""
    async with serve(faults={"http_401": 1, "http_403": 1}) as simulator:
        for code in (401, 403):
            with pytest.raises(InvalidStatus) as caught:
                async with dial(simulator):
                    pass
            assert caught.value.response.status_code == code
        async with dial(simulator) as client:
            assert await client.authenticate() == "auth_success"
