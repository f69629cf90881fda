"""Frames are what RFC 6455 says, at every boundary of their length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from mdp.wds.frames import close_frame, ping_frame, pong_frame, text_frame


def decode(data: bytes) -> tuple[Frame, bytes]:
    """The first frame of some bytes, by another implementation, and what follows it."""
    reader = StreamReader()
    reader.feed_data(data)
    parser = Frame.parse(reader.read_exact, mask=False)
    try:
        while True:
            next(parser)
    except StopIteration as stop:
        frame: Frame = stop.value
    return frame, bytes(reader.buffer)


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (0, "8100"),
        (1, "8101"),
        (125, "817d"),
        (126, "817e007e"),
        (127, "817e007f"),
        (65_535, "817effff"),
        (65_536, "817f0000000000010000"),
    ],
)
def test_the_header_has_the_shortest_form_for_the_length(size: int, header: str) -> None:
    """7 bits up to 125 bytes, 16 bits up to 65,535, 64 bits from there; the payload follows unmasked."""
    frame = text_frame(b"x" * size)
    assert frame[: len(frame) - size].hex() == header
    assert frame[len(frame) - size :] == b"x" * size


@given(st.lists(st.text(max_size=200), max_size=8))
def test_joined_frames_are_read_one_by_one(texts: list[str]) -> None:
    """Frames written in one piece come apart at their boundaries again."""
    data = b"".join(text_frame(text.encode()) for text in texts)
    for text in texts:
        frame, data = decode(data)
        assert (frame.opcode, frame.fin, bytes(frame.data).decode()) == (Opcode.TEXT, True, text)
    assert data == b""


def test_ping_and_pong_carry_their_payload() -> None:
    """A pong repeats the ping's payload."""
    assert ping_frame() == bytes.fromhex("8900")
    assert decode(pong_frame(b"abc"))[0].data == b"abc"
    assert decode(pong_frame(b"abc"))[0].opcode is Opcode.PONG


def test_a_control_frame_never_exceeds_125_bytes() -> None:
    """Longer payloads are cut: a control frame may not be longer."""
    assert len(decode(pong_frame(b"x" * 500))[0].data) == 125
    assert len(decode(ping_frame(b"x" * 500))[0].data) == 125


def test_a_close_carries_its_code_and_reason() -> None:
    """Two bytes of code, then the reason."""
    frame, _ = decode(close_frame(4008, "too slow"))
    assert frame.opcode is Opcode.CLOSE
    assert frame.data == b"\x0f\xa8too slow"


def test_a_long_reason_is_cut_between_characters() -> None:
    """What is left of a reason is whole UTF-8: half a character would be a protocol error."""
    frame, _ = decode(close_frame(1001, "é" * 100))
    assert len(frame.data) <= 125
    assert bytes(frame.data[2:]).decode() == "é" * 61
