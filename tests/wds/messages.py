"""What a hostile or broken client may send: strategies of hypothesis for messages, as bytes on the wire."""

from __future__ import annotations

import json
from random import Random
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.wds.wire import BINARY, CONTINUATION, PING, TEXT, deflated, frame

MAX_BYTES = 64 * 1024  # of a message, by default


class Said(NamedTuple):
    """One message of a client.

    Attributes:
        kind: What is wrong with it.
        data: Its frames.
        compressed: Whether it makes sense only where compression was negotiated.
    """

    kind: str
    data: bytes
    compressed: bool = False

    def __repr__(self) -> str:
        # A failing example is printed: the beginning says which, and a megabyte helps nobody.
        return f"Said({self.kind!r}, {len(self.data)} bytes: {self.data[:300]!r})"


ACTIONS = ["auth", "subscribe", "unsubscribe", "get", "SUBSCRIBE", "", "close", "__class__"]
FEEDS = [
    *(
        "quote:AAPL",
        "quote:*",
        "alerts",
        "halts",
        "scanners:top_gainers",
        "scanners:*",
        "stocks:*",
        "**",
        "*",
    ),
    *(
        "quote:",
        ":::",
        "quote:*:*",
        "scanners:../../etc",
        "mdp:keys",
        "quote:AAPL\r\n",
        "quote:\u202e",
        "QUOTE:A",
    ),
    *("trades:AAPL", "config", "__proto__", "quote:" + "A" * 200, "\0", "quote:AAPL*", "news:AAPL"),
]
_ODD = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63),
    10**30,
    1.5,
    -0.0,
    1e308,
    float("inf"),
    float("nan"),
]

_scalars = st.sampled_from(_ODD) | st.integers() | st.floats() | st.text(max_size=30) | st.sampled_from(FEEDS)
_junk: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_feed = st.sampled_from(FEEDS)
_comparison = st.tuples(
    st.sampled_from(["pct_change", "symbol", "price", "nope", ""]),
    st.sampled_from([">=", "<", "==", "!=", "in", "~", ""]),
    _scalars,
).map(list)
_place = st.fixed_dictionaries({}, optional={"epoch": _scalars, "seq": _scalars})


def _or_junk(sane: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return sane | sane | sane | _junk


_commands = st.fixed_dictionaries(
    {"action": _or_junk(st.sampled_from(ACTIONS[:4]) | st.sampled_from(ACTIONS))},
    optional={
        "feed": _or_junk(_feed),
        "feeds": _or_junk(st.lists(_feed, max_size=5)),
        "cache": _or_junk(_feed),
        "limit": _or_junk(st.integers(0, 100)),
        "fields": _or_junk(st.lists(st.sampled_from(["symbol", "price", "pct_change", ""]), max_size=4)),
        "where": _or_junk(st.lists(_comparison, max_size=3)),
        "resume": _or_junk(_place),
        "full": _or_junk(st.booleans()),
        "id": _or_junk(st.integers()),
        "api_key": _or_junk(st.text(max_size=40)),
        "token": _or_junk(st.text(max_size=40)),
    },
)


_right = st.sampled_from(["quote:AAPL", "quote:*", "alerts", "halts", "scanners:top_gainers", "scanners:*"])
_options: dict[str, st.SearchStrategy[Any]] = {
    "limit": st.integers(0, 100) | _scalars,
    "fields": st.lists(st.sampled_from(["symbol", "price", "pct_change", "nope", ""]), max_size=4),
    "where": st.lists(_comparison, max_size=3),
    "resume": _place,
    "full": st.booleans(),
    "id": st.integers() | st.text(max_size=10) | _junk,
}
# Right in all that a version asks for, so that options are looked at, and feeds begin to flow.
_nearly_right = st.one_of(
    st.fixed_dictionaries({"action": st.just("subscribe"), "feed": _right}, optional=_options),
    st.fixed_dictionaries(
        {"action": st.just("subscribe"), "feeds": st.lists(_right, min_size=1, max_size=4)}, optional=_options
    ),
    st.fixed_dictionaries({"action": st.just("unsubscribe"), "feed": _right}, optional=_options),
    st.fixed_dictionaries({"action": st.just("get"), "cache": _right}, optional=_options),
)


def _as_json(value: Any, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")


_json = st.builds(_as_json, _commands, st.booleans())
_sane_json = st.builds(_as_json, _nearly_right, st.booleans())


def _cut(data: bytes, at: int, drop: int, insert: bytes) -> bytes:
    at %= len(data) + 1
    return data[:at] + insert + data[at + drop :]


_damaged = st.builds(
    _cut, _json | _sane_json, st.integers(0, 2_000), st.integers(0, 6), st.binary(max_size=6)
)

_OPENERS = [
    b"[",
    b'{"a":',
    b'[{"":',
    b'{"action":',
    b'{"action":"subscribe","feeds":',
    b'{"action":"get","id":',
]
_nested = st.builds(
    lambda prefix, opener, depth, core, close: (
        prefix + opener * depth + core + (b"]" if opener == b"[" else b"}") * (depth if close else 0)
    ),
    st.sampled_from([b"", *_OPENERS]),
    st.sampled_from(_OPENERS),
    st.sampled_from([2, 60, 500, 999, 1_000, 2_000]),
    st.sampled_from([b"1", b"null", b'"quote:AAPL"', b""]),
    st.booleans(),
)

_huge = st.one_of(
    st.builds(
        lambda unit, size: (unit * (size // len(unit) + 1))[:size],
        st.sampled_from([b" ", b"[", b'"', b"9", b"\\", b"{", b'{"a":1,', b"\xc3\xa4", b"[],", b"-"]),
        st.sampled_from([1_000, MAX_BYTES - 1, MAX_BYTES, MAX_BYTES + 1, 3 * MAX_BYTES]),
    ),
    st.builds(
        lambda key, size: b'{"action":"get","' + key + b'":"' + b"x" * size + b'"}',
        st.sampled_from([b"cache", b"feed", b"id", b"api_key", b"fields"]),
        st.sampled_from([65, 129, 10_000, MAX_BYTES - 100, MAX_BYTES + 100]),
    ),
    st.builds(
        lambda count: _as_json({"action": "subscribe", "feeds": [f"quote:S{n}" for n in range(count)]}, True),
        st.sampled_from([100, 1_000, 1_001, 4_000]),
    ),
    st.builds(
        lambda digits: b'{"action":"get","cache":"halts","limit":' + b"7" * digits + b"}",
        st.sampled_from([19, 400, 5_000, 50_000]),
    ),
)


def _in_parts(payload: bytes, opcode: int, count: int, ping: bool) -> bytes:
    size = max(1, len(payload) // count)
    parts = [payload[start : start + size] for start in range(0, len(payload), size)] or [b""]
    between = frame(PING, b"still there?") if ping else b""
    frames = [
        frame(CONTINUATION if number else opcode, part, fin=number == len(parts) - 1)
        for number, part in enumerate(parts)
    ]
    return between.join(frames)


_broken_frames = st.one_of(
    st.builds(lambda opcode: frame(opcode, b"x"), st.sampled_from([3, 4, 5, 6, 7, 11, 12, 13, 14, 15])),
    st.builds(lambda rsv, data: frame(TEXT, data, rsv=rsv), st.integers(1, 7), st.binary(max_size=20)),
    st.builds(lambda opcode: frame(opcode, b"x" * 126), st.sampled_from([8, 9, 10])),
    st.builds(lambda opcode: frame(opcode, b"x", fin=False), st.sampled_from([8, 9, 10])),
    st.builds(lambda data: frame(CONTINUATION, data), st.binary(max_size=20)),
    # Not an empty part: aiohttp forgets it, so that what follows is a message by itself.
    st.builds(lambda data: frame(TEXT, data, fin=False), st.binary(min_size=1, max_size=20)),
    st.just(frame(CONTINUATION, b"", fin=False) * 3),
    st.builds(lambda code: frame(8, code.to_bytes(2, "big")), st.integers(0, 65_535)),
    st.builds(lambda data: frame(8, data), st.binary(max_size=125)),
    # Longer than anybody may send, and with the sign bit that a length must not have.
    st.sampled_from(
        [b"\x81\xff" + size.to_bytes(8, "big") + b"\0\0\0\0" for size in (2**20, 2**40, 2**63 + 1)]
    ),
)

_compressed = st.one_of(
    _json.map(deflated),
    st.binary(min_size=1, max_size=100),
    st.builds(
        lambda data, at, bit: _flipped(deflated(data), at, bit), _json, st.integers(0), st.integers(0, 7)
    ),
    # Bombs: 8 KB on the wire are 8 MB of spaces; one that is just not too large.
    st.sampled_from([deflated(b" " * size) for size in (MAX_BYTES, MAX_BYTES + 1, 8_000_000)]),
)


def _flipped(data: bytes, at: int, bit: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes((data[at] ^ 1 << bit,)) + data[at + 1 :]


def _texts(kind: str, payloads: st.SearchStrategy[bytes]) -> st.SearchStrategy[Said]:
    return payloads.map(lambda payload: Said(kind, frame(TEXT, payload)))


_KINDS: list[st.SearchStrategy[Said]] = [
    *[_texts("wrong types", _json)] * 2,
    *[_texts("nearly right", _sane_json)] * 4,
    _texts("damaged JSON", _damaged),
    _texts("nested", _nested),
    _texts("huge", _huge),
    _texts("any text", st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass"))),
    _texts("invalid UTF-8", st.binary(max_size=200)),
    st.binary(max_size=300).map(lambda payload: Said("binary", frame(BINARY, payload))),
    _json.map(lambda payload: Said("binary", frame(BINARY, payload))),
    st.builds(
        lambda payload, opcode, count, ping: Said("in parts", _in_parts(payload, opcode, count, ping)),
        _json | _huge,
        st.sampled_from([TEXT, TEXT, BINARY]),
        st.integers(1, 40),
        st.booleans(),
    ),
    _broken_frames.map(lambda data: Said("broken frames", data)),
    _compressed.map(lambda payload: Said("compressed", frame(TEXT, payload, rsv=4), compressed=True)),
]

# Chosen in two steps: `one_of` would give each of the ways to break a frame the weight of all JSON.
SAID: st.SearchStrategy[Said] = st.sampled_from(range(len(_KINDS))).flatmap(_KINDS.__getitem__)


def mutated(said: Said, random: Random) -> Said:
    """The same with some bytes of its payload changed or exchanged; what has several frames stays as it is.

    Much cheaper than to draw another one, and it gets where no strategy thought of. Heads of frames stay:
    with another length the server would rightly wait for the rest.
    """
    size = {126: 8, 127: 14}.get(said.data[1] & 0x7F, 6)
    if said.kind in _SEVERAL_FRAMES or len(said.data) <= size:
        return said
    data = bytearray(said.data)
    for _ in range(random.randint(1, 4)):
        at, other = random.randrange(size, len(data)), random.randrange(size, len(data))
        match random.randrange(4):
            case 0:
                data[at] ^= 1 << random.randrange(8)
            case 1:
                data[at] = random.choice(b'"{}[],:\\\0\xff\x80 0')
            case 2:
                data[at], data[other] = data[other], data[at]
            case _:
                data[at] = data[other]
    return Said(said.kind, bytes(data), said.compressed)


_SEVERAL_FRAMES = frozenset({"in parts", "broken frames"})
