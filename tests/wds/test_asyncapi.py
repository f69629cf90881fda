"""The AsyncAPI document: kept, served, well formed, and true of everything that is really said."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import aiohttp
import jsonschema_rs
import msgspec
import pytest
from asyncapi3.models.asyncapi import AsyncAPI3
from hypothesis import assume, given
from hypothesis import strategies as st

from mdp import feeds
from mdp.config import WdsConfig
from mdp.wds import asyncapi, protocol, protocol2
from mdp.wds.schemas import event_pattern, feed_pattern, subscription_pattern
from tests.wds.doubles import Running, running
from tests.wds.test_version2 import BAD

DOCS = Path(__file__).parents[2] / "docs"
SOURCES = Path(asyncapi.__file__).parent
DOCUMENT = asyncapi.document()
SCHEMAS = {
    name: jsonschema_rs.Draft7Validator(message["payload"])
    for name, message in DOCUMENT["components"]["messages"].items()
}


def named(version: str, *, by_clients: bool) -> list[str]:
    """The messages of one side."""
    action = "receive" if by_clients else "send"
    return [
        message["$ref"].rpartition("/")[2]
        for operation in DOCUMENT["operations"].values()
        if operation["action"] == action and operation["channel"]["$ref"].endswith(version)
        for message in operation["messages"]
    ]


def fitting(version: str, message: Any, *, by_clients: bool = False) -> list[str]:
    """What a message is by the document; a payload of version 1 may be anything."""
    names = [name for name in named(version, by_clients=by_clients) if name != "v1Payload"]
    return [name for name in names if SCHEMAS[name].is_valid(message)]


# The document


def test_it_is_an_asyncapi_document() -> None:
    """By a model of the specification that knows every object, and refuses what it does not know."""
    AsyncAPI3.model_validate(DOCUMENT)
    with pytest.raises(ValueError, match="chanels"):
        AsyncAPI3.model_validate(DOCUMENT | {"chanels": {}})


def test_every_reference_leads_somewhere() -> None:
    """Operations to messages of their channel, those to the messages of the document; none is left over."""

    def find(at: str) -> Any:
        found: Any = DOCUMENT
        for part in at.removeprefix("#/").split("/"):
            found = found[part]
        return found

    references = re.findall(r'"\$ref": "([^"]+)"', json.dumps(DOCUMENT))
    assert len(references) > 50
    for reference in references:
        find(reference)
    used = {name for side in (True, False) for v in ("v1", "v2") for name in named(v, by_clients=side)}
    assert used == set(SCHEMAS)


def test_the_kept_document_is_what_the_code_says() -> None:
    """`python -m mdp.wds.asyncapi > docs/asyncapi.json` makes it so."""
    assert (DOCS / "asyncapi.json").read_text() == asyncapi.text()


async def test_it_is_served() -> None:
    """Beside the one of the HTTP interface, to anybody."""
    async with running(WdsConfig(auth_enabled=True, api_keys=["key"])) as env:
        url = f"http://127.0.0.1:{env.service.port}/api/v1/asyncapi.json"
        async with env.session.get(url) as answer:
            assert (answer.status, await answer.json()) == (200, DOCUMENT)


# Tables


@pytest.mark.parametrize(("version", "parser"), [("v1", protocol), ("v2", protocol2)])
def test_documented_actions_are_those_of_the_code(version: str, parser: Any) -> None:
    """The parser has a command for each, and no command without one."""
    commands = {command.__name__.lower() for command in get_args(parser.Command)}
    documented = {
        DOCUMENT["components"]["messages"][name]["payload"]["properties"]["action"]["const"]
        for name in named(version, by_clients=True)
    }
    assert documented == commands
    source = Path(parser.__file__).read_text()
    assert commands == set(re.findall(r'case "(\w+)":', source)), "what the parser looks for"


def test_every_code_that_the_service_refuses_with_is_documented() -> None:
    """In the document and in words; each is one that the code has, and has a use."""
    used = {
        code
        for source in SOURCES.glob("*.py")
        for code in re.findall(
            r'(?:Refusal|_Bad|return|protocol2?\.error)\(?\s*"([a-z_]+)"', source.read_text()
        )
    }
    codes = {
        version: set(
            DOCUMENT["components"]["messages"][f"{version}Error"]["payload"]["properties"]["code"]["enum"]
        )
        for version in ("v1", "v2")
    }
    assert codes == {"v1": set(protocol.ERRORS), "v2": set(protocol2.ERRORS)}
    assert codes["v2"] <= used
    table = dict(re.findall(r"^\| `([a-z_]+)` \| (.+) \|$", (DOCS / "protocol.md").read_text(), re.MULTILINE))
    documented = {code: text for code, text in table.items() if code in protocol2.ERRORS}
    assert documented == protocol2.ERRORS


def test_every_close_code_is_documented() -> None:
    """In the document and in words."""
    codes = {value for name, value in vars(protocol).items() if name.isupper() and isinstance(value, int)}
    codes = {code for code in codes if code in protocol.CLOSES or 1000 <= code < 5000}
    assert codes == set(protocol.CLOSES)
    words = re.findall(r"^\| (\d{4}) \|", (DOCS / "security.md").read_text(), re.MULTILINE)
    assert set(map(int, words)) == codes
    for channel in DOCUMENT["channels"].values():
        assert set(map(int, channel["x-close-codes"])) == codes


segments = st.sampled_from(
    ["*", "quote", "stocks", "agg", "AAPL", "X", "BRK/A", "scanners", "top_gainers", "events", "tta",
     "widget", "all_symbols", "alerts", "news", "feed", "latest", "ticker", "A B", "", "quote*"]
)  # fmt: skip


@given(st.lists(segments, min_size=1, max_size=5).map(":".join))
def test_patterns_are_the_names_of_the_contract(name: str) -> None:
    """The regular expressions of the document say what `mdp.feeds` says."""
    found = feeds.resolve(name)
    assert bool(re.fullmatch(feed_pattern(), name)) == (found is not None)
    assert bool(re.fullmatch(subscription_pattern(), name)) == bool(feeds.match(name))
    assert bool(re.fullmatch(event_pattern(), name)) == (found is not None and found[0].kind == feeds.EVENT)


# What clients may say

names = st.sampled_from(["quote:A", "alerts", "quote:*", "scanners:top_gainers", "stocks:*:AAPL", "nothing"])
texts = st.sampled_from(["", "close", "x" * 65])
numbers = st.sampled_from([-1, 0, 1, 7, 2**63 - 1, 1.5, True, None, "7"])
messages = st.fixed_dictionaries(
    {"action": st.sampled_from(["auth", "subscribe", "unsubscribe", "get", "dance"])},
    optional={
        "feed": names,
        "cache": names,
        "feeds": names | st.lists(names, max_size=3, unique=True),
        "full": st.booleans() | st.just(1),
        "limit": numbers,
        "fields": st.none() | st.lists(texts, max_size=3) | texts.filter(bool),
        "where": st.none()
        | st.lists(
            st.tuples(texts, st.sampled_from(["=", ">=", "~"]), numbers | texts).map(list), max_size=2
        ),
        "resume": st.none() | st.fixed_dictionaries({}, optional={"epoch": numbers, "seq": numbers}),
        "id": st.integers() | texts,
        "api_key": texts,
        "token": texts,
    },
)


@given(messages)
def test_what_the_document_allows_is_understood_and_nothing_else(message: dict[str, Any]) -> None:
    """In both versions."""
    text = json.dumps(message)
    assume(not isinstance(message.get("id"), str) or len(message["id"]) <= protocol2.MAX_TEXT)  # passed over
    for version, parser in (("v1", protocol), ("v2", protocol2)):
        command = parser.parse(text)
        allowed = fitting(version, message, by_clients=True)
        if isinstance(command, parser.Refusal):
            assert allowed == []
        elif version == "v1" or ("cache" not in message and not {"feed", "feeds"} <= message.keys()):
            # Of several names for the same, one is read; and a get may say `cache`, as in version 1.
            assert len(allowed) == 1


@pytest.mark.parametrize(
    "message", [{"action": "subscribe", **bad} for all_bad in BAD.values() for bad in all_bad]
)
def test_what_is_refused_is_not_allowed(message: dict[str, Any]) -> None:
    """The mistakes that the parser's own test makes."""
    assert fitting("v2", message, by_clients=True) == []


# What the service says


class Recording:
    """A conversation, every message of which is looked up in the document."""

    def __init__(self, env: Running, version: str) -> None:
        self.env = env
        self.version = version
        self.heard: set[str] = set()
        self.kinds: set[str] = set()

    async def connect(self) -> aiohttp.ClientWebSocketResponse:
        """As this version does."""
        return await self.env.connect(protocols=(protocol2.SUBPROTOCOL,) if self.version == "v2" else ())

    async def ask(
        self, client: aiohttp.ClientWebSocketResponse, *, right: bool = True, **message: Any
    ) -> Any:
        """Say something that the document allows, or not, and hear the first answer."""
        assert bool(fitting(self.version, message, by_clients=True)) == right, message
        await client.send_json(message)
        return await self.hear(client)

    async def hear(self, client: aiohttp.ClientWebSocketResponse, *, payload: bool = False) -> Any:
        """The next message."""
        received = await client.receive(timeout=20)
        assert received.type is aiohttp.WSMsgType.TEXT, received
        message = msgspec.json.decode(received.data)
        if payload:
            self.heard.add("v1Payload")
            return message
        (name,) = fitting(self.version, message)
        self.heard.add(name)
        if isinstance(message, list):
            self.kinds |= {part["kind"] for part in message}
        return message

    async def told(self, client: aiohttp.ClientWebSocketResponse, kind: str) -> None:
        """Messages until one of this kind."""
        while kind not in [message["kind"] for message in await self.hear(client)]:
            pass


async def test_a_conversation_of_version_1_is_as_documented() -> None:
    """Everything that the service says is one of its documented messages, and each of those is said."""
    async with running() as env:
        talk = Recording(env, "v1")
        client = await talk.connect()
        await talk.ask(client, action="auth", api_key="x")
        await talk.ask(client, action="subscribe", feed="quote:*")
        env.bus.publish(feeds.QUOTE, "A", {"close": 1})
        assert await talk.hear(client, payload=True) == {"close": 1}
        await talk.ask(client, action="unsubscribe", feed="quote:*")
        await talk.ask(client, action="get", cache="scanners:top_gainers", limit=5)
        await talk.ask(client, right=False, action="dance")
        await talk.ask(client, right=False, action="get", cache="quote:*")
    await refused_logins(talk)
    assert talk.heard == set(named("v1", by_clients=False))


async def test_a_conversation_of_version_2_is_as_documented() -> None:
    """The same, and every kind of message in a frame."""
    async with running() as env:
        talk = Recording(env, "v2")
        client = await talk.connect()
        await talk.ask(client, action="auth", api_key="x", id=1)
        await talk.ask(client, action="subscribe", feeds=["quote:A", "scanners:top_gainers"], id="two")
        await talk.told(client, "snapshot")
        for close, kind in ((1, "state"), (2, "delta")):
            env.bus.publish(feeds.QUOTE, "A", {"symbol": "A", "close": close})
            await talk.told(client, kind)
        await talk.ask(
            client, action="subscribe", feed="quote:A", full=True, fields=["close"], where=[["close", ">", 1]]
        )
        await talk.told(client, "snapshot")
        env.bus.publish(feeds.QUOTE, "A", {"symbol": "A", "close": 3})
        await talk.told(client, "state")
        resume = {"epoch": 9, "seq": 1}
        await talk.ask(client, action="subscribe", feed="alerts", resume=resume, id=3)
        assert (await talk.hear(client))["status"] == "resync"
        await talk.told(client, "snapshot")
        env.bus.publish(feeds.ALERTS, "", {"note": "x"})
        await talk.told(client, "event")
        await talk.ask(client, action="unsubscribe", feeds=["alerts"], id=4)
        await talk.ask(client, action="get", feed="quote:A", limit=0, id=5)
        await talk.ask(client, right=False, action="dance", id=6)
        await talk.ask(client, right=False, action="subscribe", feed="quote:A", resume=resume)
    assert talk.kinds == {"snapshot", "state", "delta", "event"}
    await refused_logins(talk)
    assert talk.heard == set(named("v2", by_clients=False))


async def refused_logins(talk: Recording) -> None:
    """The answers before a close; and the warnings before an end, which take half a minute to come by."""
    config = WdsConfig(auth_enabled=True, api_keys=["right"])
    async with running(config) as env:
        talk.env = env
        await talk.ask(await talk.connect(), action="auth", api_key="wrong")
        await talk.ask(await talk.connect(), action="auth", token="wrong")
        question: dict[str, Any] = {"action": "get", "feed" if talk.version == "v2" else "cache": "halts"}
        await talk.ask(await talk.connect(), **question)
    for word in ("token", "key"):
        talk.heard |= set(fitting(talk.version, msgspec.json.decode(protocol.expires(word, 30.0))))
