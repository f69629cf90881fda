"""Version 2 over a real socket: the documented conversation, options, refusals, nonsense."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mdp import feeds
from mdp.config import WdsConfig
from mdp.wds import protocol2
from mdp.wds.protocol import Auth as Login
from mdp.wds.views import Options
from tests.wds.doubles import Running, ask, receive, running

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"


async def connect(service: Running) -> Any:
    """A client that asks for version 2."""
    client = await service.connect(protocols=("mdp.v2",))
    assert client.protocol == "mdp.v2"
    return client


def examples(version: int) -> list[dict[str, Any]]:
    """The documented messages of a version, in order."""
    part = DOCUMENT.read_text().split("## Version ")[version]
    blocks = re.findall(r"```json\n(.*?)```", part, re.DOTALL)
    return [json.loads(line) for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("version", [1, 2])
async def test_the_documented_conversation_happens(version: int) -> None:
    """Each documented message is sent, and the documented answer comes."""
    lines = examples(version)
    assert len(lines) >= 8
    async with running() as service:
        client = await (connect(service) if version == 2 else service.connect())
        for line in lines:
            if "action" in line:
                await client.send_json(line)
                if line["action"] == "get" and version == 2:
                    got = await answer(client)
                    assert (got["kind"], got["feed"], got["id"]) == ("get", line["feed"], line["id"])
                continue
            got = await answer(client)
            if line.get("cache"):
                assert got == line | {"data": None}
            else:
                assert got == line


async def answer(client: Any) -> dict[str, Any]:
    """The next answer; messages are passed over."""
    while isinstance(got := await receive(client), list):
        pass
    assert isinstance(got, dict)
    return got


async def messages(client: Any) -> list[dict[str, Any]]:
    """The next frame of messages."""
    got = await receive(client)
    assert isinstance(got, list), got
    return got


async def test_a_subscription_from_snapshot_to_end() -> None:
    """What there is, then what changed, and nothing after the end."""
    async with running() as service:
        service.cache.set(feeds.QUOTE, "A", {"symbol": "A", "close": 1, "open": 1})
        client = await connect(service)
        assert await ask(client, action="subscribe", feeds=["quote:A"]) == {
            "status": "subscribed", "feeds": ["quote:A"],
        }  # fmt: skip
        (snapshot,) = await messages(client)
        assert (snapshot["kind"], snapshot["data"]["close"]) == ("snapshot", 1)
        service.bus.publish(feeds.QUOTE, "A", {"symbol": "A", "close": 2, "open": 1})
        (delta,) = await messages(client)
        assert (delta["kind"], delta["data"]) == ("delta", {"close": 2})
        assert (await ask(client, action="unsubscribe", feed="quote:A"))["status"] == "unsubscribed"
        service.bus.publish(feeds.QUOTE, "A", {"symbol": "A", "close": 3, "open": 1})
        assert (await ask(client, action="get", feed="quote:A", id="x"))["id"] == "x"
        assert not service.bus.interest(feeds.QUOTE)


async def test_both_versions_side_by_side() -> None:
    """Who names no subprotocol, or one that we do not know, speaks version 1."""
    async with running() as service:
        one = await service.connect(protocols=("other",))
        await ask(one, action="subscribe", feed="quote:A")
        two = await connect(service)
        await ask(two, action="subscribe", feed="quote:A")
        await messages(two)
        service.bus.publish(feeds.QUOTE, "A", {"close": 2})
        assert await receive(one) == {"close": 2}
        assert (await messages(two))[0]["data"] == {"close": 2}


async def test_a_resync_is_said_before_the_snapshot() -> None:
    """A client with a place of another life gets what there is."""
    async with running() as service:
        service.cache.push(feeds.ALERTS, "", 1)
        service.bus.publish(feeds.ALERTS, "", 1)
        client = await connect(service)
        await client.send_json(
            {"action": "subscribe", "feed": "alerts", "resume": {"epoch": 9, "seq": 1}, "id": 4}
        )
        assert (await receive(client))["status"] == "subscribed"
        assert await receive(client) == {"status": "resync", "feed": "alerts", "id": 4}
        assert (await messages(client))[0]["data"] == [1]


async def test_limits_count_views() -> None:
    """The last that fits fits; to replace one needs no place."""
    async with running(WdsConfig(max_subscriptions=2)) as service:
        client = await connect(service)
        assert (await ask(client, action="subscribe", feeds=["quote:A", "quote:B"]))["status"] == "subscribed"
        refused = {"action": "subscribe", "feeds": ["quote:B", "quote:C"], "id": 7}
        await client.send_json(refused)
        got = await answer(client)
        assert (got["code"], got["id"]) == ("too_many_subscriptions", 7)
        await client.send_json({"action": "subscribe", "feeds": ["quote:B"], "full": True})
        assert (await answer(client))["status"] == "subscribed"


BAD: dict[str, list[dict[str, Any]]] = {
    "bad_feeds": [
        {},
        {"feeds": []},
        {"feeds": [7]},
        {"feeds": {"quote:A": 1}},
        {"feeds": ["quote:A"] * 1_001},
    ],
    "unknown_feed": [{"feeds": ["quote:A", "mdp:internal"]}, {"feed": "quote:A B"}, {"feed": "x" * 500}],
    "bad_limit": [{"feed": "quote:A", "limit": bad} for bad in (-1, 1.5, "7", True)],
    "bad_option": [
        {"feed": "quote:A", **bad}
        for bad in (
            {"full": 1},
            {"fields": "close"},
            {"fields": [1]},
            {"fields": ["x"] * 101},
            {"where": "close > 1"},
            {"where": [["close", ">"]]},
            {"where": [["close", "~", 1]]},
            {"where": [["close", ["="], 1]]},
            {"where": [["close", "=", [1]]]},
            {"where": [["close", "=", 1]] * 21},
            {"where": [7]},
        )
    ],
    "bad_resume": [
        {"feed": feed, "resume": resume}
        for feed, resume in (
            ("quote:A", {"epoch": 1, "seq": 1}),
            ("alerts", 7),
            ("alerts", {"epoch": 1}),
            ("alerts", {"epoch": -1, "seq": 2}),
            ("quote:*", {"epoch": 1, "seq": 1}),
            ("alerts", {"epoch": True, "seq": 1}),
            ("alerts", {"epoch": 1, "seq": 2**70}),
        )
    ],
}


@pytest.mark.parametrize(
    ("code", "message"), [(code, bad) for code, all_bad in BAD.items() for bad in all_bad]
)
def test_what_is_wrong_is_named(code: str, message: dict[str, Any]) -> None:
    """By its code, with the message's id."""
    refusal = protocol2.parse(json.dumps({"action": "subscribe", "id": 3, **message}))
    assert isinstance(refusal, protocol2.Refusal)
    assert (
        (refusal.code, refusal.id) == (code, 3)
        if code != "unknown_feed"
        else refusal.code in (code, "bad_resume")
    )
    answer = msgspec.json.decode(refusal.json())
    assert answer["status"] == "error"
    assert len(answer["message"]) < 300


def test_options_are_the_same_in_any_order() -> None:
    """Who asks for the same shares one view."""
    one = protocol2.parse(
        '{"action":"subscribe","feed":"quote:A","fields":["b","a"],"where":[["a",">",1],["b","=","x"]]}'
    )
    two = protocol2.parse(
        '{"action":"subscribe","feed":"quote:A","fields":["a","b","a"],"where":[["b","=","x"],["a",">",1]]}'
    )
    assert isinstance(one, protocol2.Subscribe)
    assert isinstance(two, protocol2.Subscribe)
    assert one.options == two.options == Options(fields=("a", "b"), where=(("a", ">", 1), ("b", "=", "x")))
    assert hash(one.options) == hash(two.options)


def test_logins_are_those_of_version_1_and_never_shown() -> None:
    """Keys and tokens stay out of whatever is printed."""
    command = protocol2.parse('{"action":"auth","api_key":"secret-1","token":"secret-2"}')
    assert command == protocol2.Auth(Login("secret-1", "secret-2"))
    assert "secret" not in repr(command)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
nonsense = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
spoken = st.fixed_dictionaries(
    {"action": st.sampled_from(["auth", "subscribe", "unsubscribe", "get", "x"])},
    optional={
        name: nonsense | st.sampled_from(["quote:A", "alerts", "*", "quote:*"]) | st.just(["quote:A"])
        for name in (
            "feed",
            "feeds",
            "cache",
            "limit",
            "fields",
            "where",
            "full",
            "resume",
            "id",
            "api_key",
            "token",
        )
    },
)


@given(st.one_of(spoken.map(json.dumps), nonsense.map(json.dumps), st.text(), st.binary()))
def test_any_message_is_a_command_or_a_refusal(text: str | bytes) -> None:
    """And every refusal can be sent."""
    command = protocol2.parse(text)
    if isinstance(command, protocol2.Refusal):
        assert msgspec.json.decode(command.json())["status"] == "error"
    elif isinstance(command, protocol2.Subscribe):
        hash(command.options)


async def test_clients_who_ask_for_it_get_compressed_messages() -> None:
    """A browser decodes them; who did not ask, and version 1, get plain ones; small ones stay plain."""
    rows = [{"symbol": f"S{n}", "close": n, "rank": n + 1} for n in range(3_000)]
    async with running() as service:
        plain, deflated = await connect(service), await service.connect(protocols=("mdp.v2",), compress=15)
        assert deflated.compress == 15
        one = await service.connect(compress=15)
        assert one.compress == 0
        for client in (plain, deflated):
            await ask(client, action="subscribe", feed="scanners:top_gainers")
            assert (await messages(client))[0]["data"] is None
        before = service.service.counters.bytes_sent
        service.bus.publish(feeds.TOP_GAINERS, "", rows)
        assert (await messages(plain))[0]["data"] == (await messages(deflated))[0]["data"] == rows
        size = len(json.dumps(rows, separators=(",", ":")))
        assert size < service.service.counters.bytes_sent - before < 1.3 * size, "one whole, one compressed"
        await deflated.send_json({"action": "get", "feed": "quote:A", "id": "compressed " + "x" * 40})
        assert (await answer(deflated))["id"] == "compressed " + "x" * 40


async def test_compression_can_be_switched_off() -> None:
    """Then nobody gets it."""
    async with running(WdsConfig(compression=False)) as service:
        client = await service.connect(protocols=("mdp.v2",), compress=15)
        assert client.compress == 0
