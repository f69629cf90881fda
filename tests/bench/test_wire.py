"""The bench's own reading and writing of WebSocket frames, against the websockets library."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from mdp.bench import wire


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 300_000])
def test_text_frames_are_what_the_library_makes(size: int) -> None:
    """Each of the three length forms is byte for byte the library's."""
    payload = b"x" * size

    assert wire.text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


@given(
    payloads=st.lists(st.integers(0, 70_000).map(lambda n: b"p" * n), max_size=5),
    cuts=st.lists(st.integers(0, 200_000), max_size=6),
)
def test_any_cutting_of_the_stream_gives_the_same_messages(payloads: list[bytes], cuts: list[int]) -> None:
    """However the bytes arrive, the messages come out whole and in order."""
    stream = b"".join(wire.text_frame(payload) for payload in payloads)
    reader = wire.FrameReader()
    found: list[bytes] = []
    at = 0
    for cut in [*sorted(cuts), len(stream)]:
        found += [message.payload for message in reader.feed(stream[at:cut])]
        at = max(at, cut)

    assert found == payloads


def test_fragments_are_put_together_around_a_ping() -> None:
    """A ping between the fragments of a message is handed over at once, the message when it is whole."""
    stream = (
        Frame(Opcode.TEXT, b"ab", fin=False).serialize(mask=False)
        + Frame(Opcode.PING, b"?").serialize(mask=False)
        + Frame(Opcode.CONT, b"cd").serialize(mask=False)
    )

    found = wire.FrameReader().feed(stream)

    assert [(message.opcode, message.payload) for message in found] == [
        (wire.PING, b"?"),
        (wire.TEXT, b"abcd"),
    ]


@pytest.mark.parametrize("bad", [b"\x81\x81aaaab", b"\x80\x01x"], ids=["masked", "continuation of nothing"])
def test_what_no_server_sends_is_an_error(bad: bytes) -> None:
    """The bench stops instead of measuring garbage."""
    with pytest.raises(wire.WireError):
        wire.FrameReader().feed(bad)


@pytest.mark.parametrize("size", [0, 5, 125, 126, 5_000])
def test_masked_frames_are_understood_by_a_server(size: int) -> None:
    """The library's server reads the handshake and what a client of the bench sends."""
    server = ServerProtocol()
    server.receive_data(wire.upgrade_request("127.0.0.1", 80, "/ws"))
    request = server.events_received()[0]
    server.send_response(server.accept(request))  # type: ignore[arg-type]
    payload = bytes(range(256)) * 20

    server.receive_data(wire.masked_frame(wire.TEXT, payload[:size]))

    frame = server.events_received()[0]
    assert isinstance(frame, Frame)
    assert (frame.opcode, bytes(frame.data)) == (Opcode.TEXT, payload[:size])
